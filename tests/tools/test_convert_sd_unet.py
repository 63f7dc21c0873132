# SPDX-License-Identifier: Apache-2.0
"""The command, from published forms of the file to the one that runs read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import types
from lamd_jax.interchange import lvdm_checkpoint
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import sd_unet
from lamd_jax.nn import initializers
from lamd_jax.systems import gen1_blocks
from lamd_jax.tools import convert
from lamd_jax.tools import convert_sd_unet
import torch_writer


@pytest.fixture(scope="module")
def params():
  settings = dict(
    gen1_blocks.STABLE_DIFFUSION_1, channels=32, channel_mult=(1, 2), res_blocks=1,
    attention_downsample=(2,), heads=2,
  )  # fmt: skip
  network = gen1_blocks.unet(settings, 4, remat="none")
  like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  conditions = types.Conditions(context=like(1, 4, 24))
  z = like(1, 1, 8, 8, 4)
  return initializers.initialize(network, 0, z, like(1), conditions)["params"]


@pytest.fixture
def tiny(monkeypatch, params):
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
  monkeypatch.setattr(convert_sd_unet, "released", lambda: shapes)


def _whole(params):
  """A training file: raw weights and others as their average."""
  raw = sd_unet.to_state(params, "ldm")
  state = {f"model.diffusion_model.{name}": value for name, value in raw.items()}
  for name, value in raw.items():
    state[lvdm_checkpoint.ema_name(name)] = 2 * value
  state["model_ema.num_updates"] = np.asarray(7, np.int32)
  state["first_stage_model.quant_conv.bias"] = np.zeros(8, np.float32)
  return state


def _check(out, expected, factor):
  found = safetensors_file.read(out)
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], factor * value, strict=True)


@pytest.mark.parametrize("weights, factor", (("raw", 1), ("ema", 2)))
def test_a_training_file(tiny, params, tmp_path, weights, factor):
  source, out = tmp_path / "sd.ckpt", tmp_path / "sd_unet.safetensors"
  torch_writer.write_training(source, _whole(params))
  call = ["sd-unet", str(source), f"--out={out}", f"--weights={weights}"]
  assert convert.main(call) == 0
  _check(out, sd_unet.to_state(params, "ldm"), np.float32(factor))
  record = json.loads((tmp_path / "sd_unet.safetensors.json").read_text())
  assert record["weights"] == weights
  assert "first_stage_model.quant_conv.bias" in record["not_used"]
  other = "model_ema.diffusion_modelout0weight"
  if weights == "ema":
    other = "model.diffusion_model.out.0.weight"
  assert other in record["not_used"]


def test_diffusers_names_in_half_precision(tiny, params, tmp_path, capsys, monkeypatch):
  source, out = tmp_path / "unet.safetensors", tmp_path / "sd_unet.safetensors"
  state = sd_unet.to_state(params, "diffusers")
  halves = {name: value.astype(np.float16) for name, value in state.items()}
  safetensors_file.write(source, halves, {})
  assert convert.main(["sd-unet", str(source), f"--out={out}"]) == 0
  rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
  _check(out, sd_unet.to_state(rounded, "ldm"), np.float32(1))
  record = json.loads((tmp_path / "sd_unet.safetensors.json").read_text())
  assert record["keys"]["out.0.weight"] == "conv_norm_out.weight"
  # What is written is what runs read.
  loaded = sd_unet.load(out, params)
  jax.tree.map(np.testing.assert_array_equal, loaded, rounded)

  # No average there; and the published network does not fit the tiny file.
  out.unlink()
  for undo, more in ((False, ["--weights=ema"]), (True, [])):
    if undo:
      monkeypatch.undo()
    capsys.readouterr()
    assert convert.main(["sd-unet", str(source), f"--out={out}", *more]) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"lamd_jax: {source}: ")
    assert not out.exists()
