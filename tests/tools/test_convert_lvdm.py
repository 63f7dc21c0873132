# SPDX-License-Identifier: Apache-2.0
"""tools.convert lvdm: a checkpoint becomes a run that samples what its weights say."""

import collections
import hashlib
import json
import pathlib

import jax
import numpy as np
import pytest

import lamd_jax
from lamd_jax import api
from lamd_jax import main
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import lvdm_checkpoint as parts
from lamd_jax.tools import conversion
from lamd_jax.tools import convert
from lamd_jax.tools import convert_lvdm
from lamd_jax.training import checkpoints
from lamd_jax.training import loop
import lvdm_files
import tiny
import torch_writer
from torch_writer import Call, Global

TESTS = pathlib.Path(__file__).resolve().parents[1]
LATENTS = ("--scale=0.5", "--shift=-0.25")
# A text-to-video model of the published kind: an image autoencoder, CLIP's tower.
TEXT = dict(
  stages=("diffusion",),
  data__tokenizer="clip",
  data__tokens=8,
  model__first_stage="image",
  model__text__encoder="clip",
  model__text__width=8,
  model__text__layers=1,
  model__text__heads=2,
  model__denoiser__transformer=True,
  model__denoiser__scale_shift_norm=False,
)


def _config(**overrides):
  config = tiny.config(**overrides).copy_and_resolve_references()
  config.model.image_autoencoder.update(
    channels=4, channel_mult=(1, 2), res_blocks=1, latent_channels=2, groups=4
  )
  return config.lock()


def _config_file(folder, **overrides):
  (folder / "config.py").write_text(
    "import sys\n"
    f"sys.path.insert(0, {str(TESTS)!r})\n"
    f"sys.path.insert(0, {str(TESTS / 'tools')!r})\n"
    "import test_convert_lvdm\n"
    "def get_config(variant='demo'):\n"
    f"  return test_convert_lvdm._config(**{overrides!r})\n"
  )
  return folder / "config.py"


def _convert(*arguments):
  return convert.main(["lvdm", *map(str, arguments)])


@pytest.fixture(scope="module")
def short(tmp_path_factory):
  """(folder of the run, state dict, checkpoint, config file) of a short model."""
  folder = tmp_path_factory.mktemp("short")
  state = lvdm_files.state(convert_lvdm.networks(_config()))
  checkpoint, out = folder / "last.ckpt", folder / "run"
  torch_writer.write_training(checkpoint, state)
  file = _config_file(folder)
  assert _convert(
    checkpoint, f"--out={out}", f"--config={file}", "--any-file", *LATENTS
  ) == 0  # fmt: skip
  return out, state, checkpoint, file


def _frames(model):
  return model.generate(steps=2, seed=3).frames


@pytest.mark.parametrize("weights, part", (("raw", "denoiser"), ("ema", "ema")))
def test_samples_as_the_weights_put_in_directly(short, weights, part):
  out, state, _, _ = short
  tree, _ = parts.to_tree(state, convert_lvdm.networks(_config()))
  extras = {"latent_scale": np.float32(0.5), "latent_shift": np.float32(-0.25)}
  direct = {
    "autoencoder": {"params": {"generator": tree["video"]}, "extras": extras},
    "diffusion": {"params": {"denoiser": tree[part]}, "extras": {}},
  }
  expected = _frames(api.Model(_config(), jax.device_put(direct)))
  found = lamd_jax.load(out, weights=weights)
  np.testing.assert_array_equal(_frames(found), expected)
  for stage, group in (("autoencoder", "generator"), ("diffusion", "denoiser")):
    jax.tree.map(
      np.testing.assert_array_equal,
      found.weights[stage]["params"][group],
      direct[stage]["params"][group],
    )


def test_averages_are_another_model(short):
  out, *_ = short
  raw, ema = (lamd_jax.load(out, weights=w) for w in ("raw", "ema"))
  assert not np.array_equal(_frames(raw), _frames(ema))


def test_the_command_samples_from_it(short, tmp_path):
  out, *_ = short
  code = main.run(
    ["main", f"--workdir={out}", "--mode=sample", "--sample.n=2", "--sample.steps=2",
     "--sample.weights=raw", "--sample.seed=3", f"--sample.out={tmp_path}"]
  )  # fmt: skip
  assert code == 0
  clips = np.load(tmp_path / "samples.npz")["arr_0"]
  expected = lamd_jax.load(out, weights="raw").generate(2, steps=2, seed=3)
  np.testing.assert_array_equal(clips, [clip.frames for clip in expected])


def test_the_record(short):
  out, _, checkpoint, _ = short
  record = json.loads((out / convert_lvdm.RECORD).read_text())
  (source,) = record["sources"]
  digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
  assert source["sha256"] == digest and source["file"] == "last.ckpt"
  assert source["bytes"] == checkpoint.stat().st_size
  assert source["as_published"] is False and source["preset"] is None
  assert record["latent_scale"] == 0.5 and record["latent_shift"] == -0.25
  assert record["ema"]["num_updates"] == 21
  assert record["keys"]["denoiser"] == record["keys"]["ema"] > 20
  assert record["keys"]["schedule"] == 12 and record["not_used"] == []
  assert record["converter"] == conversion.CONVERTER_VERSION
  assert {p.name for p in out.iterdir()} == {
    "autoencoder", "diffusion", "config.json", "env.json", "convert.json"
  }  # fmt: skip
  assert {p.name for p in out.parent.iterdir()} == {"config.py", "last.ckpt", "run"}


def test_a_bare_state_dict_of_the_older_format(short, tmp_path):
  _, state, _, file = short
  bare = {k: v for k, v in state.items() if not k.startswith("model_ema.")}
  torch_writer.write_state(tmp_path / "x.ckpt", bare, older=True)
  out = tmp_path / "deep" / "run"
  options = (f"--out={out}", f"--config={file}", "--any-file", *LATENTS)
  assert _convert(tmp_path / "x.ckpt", *options) == 0
  model = lamd_jax.load(out)  # ema asked for: there is none, so raw
  bias = model.weights["diffusion"]["params"]["denoiser"]["out_conv"]["bias"]
  np.testing.assert_array_equal(bias, state["model.diffusion_model.out.2.bias"])


def test_a_published_file_is_recognised(short, tmp_path, monkeypatch, capsys):
  _, _, checkpoint, file = short
  digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
  known = conversion.Source("MIT", digest[:8], checkpoint.stat().st_size)
  sky = convert_lvdm.PRESETS["short_sky"]
  preset = convert_lvdm.Preset(str(file), sky.latents, known)
  monkeypatch.setitem(convert_lvdm.PRESETS, "short_sky", preset)
  assert _convert(checkpoint, f"--out={tmp_path / 'run'}") == 0
  record = json.loads((tmp_path / "run" / "convert.json").read_text())
  assert record["sources"][0]["preset"] == "short_sky"
  assert record["sources"][0]["as_published"] is True
  extras = lamd_jax.load(tmp_path / "run").weights["autoencoder"]["extras"]
  assert extras["latent_scale"] == np.float32(0.33422927)
  assert extras["latent_shift"] == np.float32(1.4606637)
  # The name of another file is no way around the hash.
  capsys.readouterr()
  assert _convert(checkpoint, f"--out={tmp_path / 'b'}", "--preset=short_taichi") == 4
  assert "is not short_taichi" in capsys.readouterr().err


def _refused(capsys, *arguments):
  """Returns the exit code and the one line of a refused call."""
  capsys.readouterr()
  code = _convert(*arguments)
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  return code, error


def test_calls_that_lack_something(short, tmp_path, capsys):
  out, _, checkpoint, file = short
  new = f"--out={tmp_path / 'run'}"
  code, error = _refused(capsys, checkpoint, new, f"--config={file}", *LATENTS)
  assert code == 4 and "--any-file" in error and "short_sky 2ea27980" in error
  any_file = (checkpoint, new, "--any-file")
  code, error = _refused(capsys, *any_file, f"--config={file}")
  assert code == 2 and error.startswith("lamd_jax: --scale and --shift")
  assert "0.33422927" in error
  code, error = _refused(capsys, *any_file, f"--config={file}", "--scale=1")
  assert code == 2 and error.startswith("lamd_jax: --scale and --shift")
  code, error = _refused(capsys, *any_file, *LATENTS)
  assert code == 2 and error.startswith("lamd_jax: --config")
  code, error = _refused(capsys, checkpoint, f"--out={out}", "--any-file")
  assert code == 2 and "not empty" in error
  code, error = _refused(capsys, tmp_path / "absent", new, "--any-file")
  assert code == 4 and "absent" in error
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "name, change, message",
  (
    ("model.diffusion_model.out.2.bias", None, "out.2.bias is missing"),
    ("model_ema.diffusion_modelout2bias", None, "modelout2bias is missing"),
    ("model.diffusion_model.time_embed.0.weight", np.transpose, "has shape (32, 128)"),
    ("first_stage_model.encoder.conv_first.weight", np.negative, "differs from"),
    ("extra.weight", np.copy, "extra.weight is unused"),
    ("alphas_cumprod", lambda a: a**2, "beta_start"),
  ),
)
def test_wrong_weights_leave_nothing(short, tmp_path, capsys, name, change, message):
  _, state, _, file = short
  state = dict(state)
  value = state.pop(name, np.zeros(2, np.float32))
  if change is not None:
    state[name] = np.ascontiguousarray(change(value))
  path = tmp_path / "x.ckpt"
  torch_writer.write_training(path, state)
  options = (f"--config={file}", "--any-file", *LATENTS)
  code, error = _refused(capsys, path, f"--out={tmp_path / 'run'}", *options)
  assert code == 4 and error.startswith(f"lamd_jax: {path}: ") and message in error
  assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]


@pytest.mark.parametrize("place", ("state_dict", "callbacks", "hyper_parameters"))
def test_a_malicious_file_is_refused_and_not_run(short, tmp_path, capsys, place):
  _, state, _, file = short
  tensors = torch_writer.Tensors(older=False)
  attack = Call(Global("posix", "system"), (f"touch {tmp_path / 'ran'}",))
  node = {"state_dict": tensors.named(state), "callbacks": {}, "hyper_parameters": {}}
  node[place] = collections.OrderedDict(node[place], extra=attack)
  path = tmp_path / "x.ckpt"
  tensors.write(path, node)
  options = (f"--config={file}", "--any-file", *LATENTS)
  code, error = _refused(capsys, path, f"--out={tmp_path / 'run'}", *options)
  assert code == 4 and "posix.system" in error and "nothing was run" in error
  assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]


def _autoencoder(folder, **settings):
  """Returns the run and the state dict of an autoencoder's own checkpoint."""
  networks = convert_lvdm.networks(_config(**settings))
  state = lvdm_files.state(networks, ema=False, own=True)
  torch_writer.write_state(folder / "ae.ckpt", state, older=False)
  file, out = _config_file(folder, **settings), folder / "run"
  options = (f"--out={out}", f"--config={file}", "--any-file", *LATENTS)
  assert _convert(folder / "ae.ckpt", *options) == 0
  return out, state


def test_an_autoencoder_brings_its_critic(tmp_path):
  # Four layers with stride 2 and 1 need larger frames.
  out, state = _autoencoder(tmp_path, model__discriminator__layers=3, data__size=64)
  loaded = checkpoints.load_weights(out / "autoencoder")
  critic = loaded["params"]["discriminator"]["patches"]
  mean = loaded["extras"]["batch_stats"]["patches"]["norm_1"]["mean"]
  prefix = "loss.discriminator.main."
  np.testing.assert_array_equal(critic["conv_0"]["bias"], state[f"{prefix}0.bias"])
  np.testing.assert_array_equal(mean, state[f"{prefix}3.running_mean"])
  record = json.loads((out / "convert.json").read_text())
  assert set(lvdm_files.LPIPS) < set(record["not_used"])


def test_an_autoencoder_is_a_start_for_training(tmp_path, monkeypatch):
  out, state = _autoencoder(tmp_path)
  assert not (out / "diffusion").exists()
  begun = []

  def instead(stage, *, frozen, **rest):
    begun.append((stage.name, frozen))
    return loop.Result("preempted", 0)

  monkeypatch.setattr(loop, "train", instead)
  main.run(["main", f"--workdir={out}"])
  ((name, frozen),) = begun
  assert name == "diffusion"
  assert frozen["autoencoder"]["extras"]["latent_scale"] == 0.5
  bias = frozen["autoencoder"]["params"]["generator"]["conv_out"]["bias"]
  np.testing.assert_array_equal(bias, state["decoder.conv_out.conv.bias"])


def test_text_to_video(tmp_path, capsys):
  networks = convert_lvdm.networks(_config(**TEXT))
  state = lvdm_files.state(networks, ema=False)
  path, out = tmp_path / "t2v.ckpt", tmp_path / "run"
  torch_writer.write_training(path, state)
  file = _config_file(tmp_path, **TEXT)
  options = (path, f"--out={out}", f"--config={file}", "--any-file", *LATENTS)
  code, error = _refused(capsys, *options)
  assert code == 2 and error.startswith("lamd_jax: --merges")
  assert "bpe_simple_vocab" in error
  code, error = _refused(capsys, *options, f"--merges={tmp_path / 'absent'}")
  assert code == 2 and "absent" in error and not out.exists()
  merges = tmp_path / "merges.txt"
  merges.write_text("#version: 0.2\n")
  assert _convert(*options, f"--merges={merges}") == 0
  assert (out / "bpe_merges.txt").read_bytes() == merges.read_bytes()
  config = json.loads((out / "config.json").read_text())
  assert config["model"]["text"]["weights"] == "clip_text.safetensors"
  assert config["data"]["vocabulary"] == "bpe_merges.txt"
  record = json.loads((out / "convert.json").read_text())
  assert record["not_used"] == [lvdm_files.POSITION_IDS]
  prefix = "cond_stage_model.transformer."
  network = convert_lvdm.SYSTEMS["lvdm"](_config(**TEXT)).text.network
  text = clip_text.to_state(clip_text.load(out / "clip_text.safetensors", network))
  for name, value in text.items():
    np.testing.assert_array_equal(value, state[prefix + name], strict=True)
