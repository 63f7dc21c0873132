# SPDX-License-Identifier: Apache-2.0
"""tools.convert export: what was read is written back, bit for bit, name by name."""

import json

import numpy as np
import pytest

from lamd_jax import run_folder
from lamd_jax.interchange import lvdm_checkpoint as parts
from lamd_jax.interchange import safetensors_file
from lamd_jax.tools import convert
from lamd_jax.tools import convert_lvdm
from lamd_jax.training import checkpoints
import lvdm_files
import tiny
import torch_writer


def _converted(folder, config, ema):
  """Returns the run and the state dict that it was made of."""
  state = lvdm_files.state(convert_lvdm.networks(config), ema)
  torch_writer.write_training(folder / "x.ckpt", state)
  latents = convert_lvdm.Latents(0.5, 0.25)
  convert_lvdm.convert_lvdm(folder / "x.ckpt", folder / "run", config, latents, {})
  return folder / "run", state


@pytest.fixture(scope="module")
def short(tmp_path_factory):
  return _converted(tmp_path_factory.mktemp("short"), tiny.config(), ema=True)


def _export(run, stage, out, *more):
  return convert.main(["export", str(run), f"--stage={stage}", f"--out={out}", *more])


def _same(found, expected):
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, strict=True, err_msg=name)


def _starting(state, *prefixes):
  return {name: value for name, value in state.items() if name.startswith(prefixes)}


def test_round_trip_is_bit_equal(short, tmp_path):
  run, state = short
  out = tmp_path / "x.safetensors"
  found = {}
  assert _export(run, "diffusion", out, "--weights=both") == 0
  found |= safetensors_file.read(out)
  assert _export(run, "autoencoder", out) == 0
  found |= safetensors_file.read(out)
  _same(found, {k: v for k, v in state.items() if k not in parts.SCHEDULE})


def test_one_set_of_weights_goes_by_the_name_of_the_raw_ones(short, tmp_path):
  run, state = short
  raw = _starting(state, "model.diffusion_model.")
  out = tmp_path / "x.safetensors"
  assert _export(run, "diffusion", out, "--weights=raw") == 0
  _same(safetensors_file.read(out), raw)
  assert _export(run, "diffusion", out) == 0
  dotless = lambda name: name.removeprefix("model.").replace(".", "")
  ema = {name: state[f"model_ema.{dotless(name)}"] for name in raw}
  _same(safetensors_file.read(out), ema)
  record = json.loads((tmp_path / "x.safetensors.json").read_text())
  (source,) = record["sources"]
  assert source == {"run": "run", "stage": "diffusion", "weights": "ema", "step": 0}
  assert record["keys"] == {"denoiser": len(raw)} and record["part"] == "lvdm_diffusion"


def test_an_image_autoencoder_has_no_aliases(tmp_path):
  config = tiny.config(model__first_stage="image").copy_and_resolve_references()
  config.model.image_autoencoder.update(
    channels=4, channel_mult=(1, 2), res_blocks=1, latent_channels=2, groups=4
  )
  run, state = _converted(tmp_path, config.lock(), ema=False)
  out = tmp_path / "x.safetensors"
  assert _export(run, "autoencoder", out) == 0
  first = _starting(state, "first_stage_model.")
  assert "first_stage_model.encoder.down.0.downsample.conv.weight" in first
  assert "first_stage_model.encoder.down.0.downsample.weight" not in first
  _same(safetensors_file.read(out), first)


def test_a_run_of_ones_own(short, tmp_path, capsys):
  """Without a record the averages' count is the run's step; other groups are named."""
  run, _ = short
  raw = checkpoints.load_weights(run / "diffusion", "raw")["params"]
  ema = checkpoints.load_weights(run / "diffusion", "ema")["params"]
  workdir = tmp_path / "own"
  params = {**raw, "text_encoder": {"tokens": np.zeros(3, np.float32)}}
  checkpoints.write_finished(workdir / "diffusion", params, ema, {})
  run_folder.write(workdir, tiny.config())
  out = tmp_path / "x.safetensors"
  assert _export(workdir, "diffusion", out, "--weights=both") == 0
  assert "not exported: text_encoder" in capsys.readouterr().out
  found = safetensors_file.read(out)
  assert found["model_ema.decay"] == np.float32(0.99)  # as in tests/tiny.py
  assert found["model_ema.num_updates"] == 0


def _refused(capsys, *arguments):
  capsys.readouterr()
  code = _export(*arguments)
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  return code, error


def test_what_cannot_be_exported(short, tmp_path, capsys):
  run, state = short
  out = tmp_path / "x.safetensors"
  code, error = _refused(capsys, tmp_path, "diffusion", out)
  assert code == 2 and "holds no run" in error
  code, error = _refused(capsys, run, "prediction", out)
  assert code == 2 and "finished are autoencoder, diffusion" in error
  code, error = _refused(capsys, run, "diffusion", tmp_path / "x.npz")
  assert code == 2 and ".safetensors" in error
  code, error = _refused(capsys, run, "autoencoder", out, "--weights=both")
  assert code == 2 and "denoisers alone" in error
  raw = checkpoints.load_weights(run / "diffusion", "raw")["params"]
  checkpoints.write_finished(tmp_path / "own" / "diffusion", raw, {}, {})
  run_folder.write(tmp_path / "own", tiny.config())
  code, error = _refused(capsys, tmp_path / "own", "diffusion", out, "--weights=both")
  assert code == 2 and "no average" in error
  strange = {"bias": np.zeros(2, np.float32)}
  strange = {"denoiser": {**raw["denoiser"], "strange": strange}}
  checkpoints.write_finished(tmp_path / "b" / "diffusion", strange, {}, {})
  run_folder.write(tmp_path / "b", tiny.config())
  code, error = _refused(capsys, tmp_path / "b", "diffusion", out)
  assert code == 4 and "no place for strange" in error
  assert not out.exists()
