# SPDX-License-Identifier: Apache-2.0
"""From a run to another one: what moved, what both sample, and what is refused."""

import json

from etils import epath
import jax
import numpy as np
import pytest
import tiny

import lamd_jax
from lamd_jax import main
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.tools import convert_lvdm
from lamd_jax.tools import derived_run
from lamd_jax.tools import export
from lamd_jax.tools import finetune
from lamd_jax.training import checkpoints
import lvdm_files
import torch_writer

CONFIGS = {
  "lvdm": lambda: tiny.config(train__mesh="one", data__num_videos=8),
  "lamd": lambda: tiny.lamd_config(train__mesh="one", data__num_videos=8),
  "gen1": lambda: tiny.gen1_config(
    stages=("autoencoder", "content", "structure_levels"), train__mesh="one",
    data__num_videos=8,
  ),
}  # fmt: skip
STAGES = {"lvdm": "diffusion", "lamd": "motion_diffusion", "gen1": "structure_levels"}


def _drawn(workdir, system):
  """A run whose stages were drawn and not trained; averages differ from the raw."""
  config = CONFIGS[system]()
  draw = np.random.default_rng(0)
  shake = lambda tree: jax.tree.map(
    lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), tree
  )
  for stage in SYSTEMS[system](config).stages():
    if stage.name in config.stages:
      params, extras = stage.init(0)
      scalars = dict.fromkeys(("latent_shift", "latent_scale"), np.float32(0.5))
      extras = {**extras, **(scalars if "autoencoder" in stage.name else {})}
      checkpoints.write_finished(
        workdir / stage.name, shake(params), shake(params), extras
      )
  run_folder.write(workdir, config)
  return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return _drawn(epath.Path(tmp_path_factory.mktemp("run")), "lvdm")


def _tune(run, out, *more, stage="diffusion"):
  return finetune.main([
    f"--workdir={run}", f"--out={out}", f"--config.optim.{stage}.steps=2",
    f"--config.optim.{stage}.learning_rate=0.1", *more,
  ])  # fmt: skip


def _flat(weights):
  return {
    jax.tree_util.keystr(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(weights)
  }


def _moved(run, out, stage, which="ema"):
  """Names of the stage's arrays that differ from the base's averages."""
  old = _flat(checkpoints.load_weights(run / stage, "ema"))
  new = _flat(checkpoints.load_weights(out / stage, which))
  assert old.keys() == new.keys()
  return {name for name in old if old[name].tobytes() != new[name].tobytes()}, old


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
  """By LoRA; broken off between its training and its end, and started again."""
  out = epath.Path(tmp_path_factory.mktemp("lora")) / "out"
  with pytest.MonkeyPatch.context() as patch:
    def broken(*_):
      raise ConfigError("broken")

    patch.setattr(derived_run, "write", broken)
    assert _tune(run, out, "--how=lora", "--rank=2", "--alpha=4") == 2
  assert not (out / "config.json").exists()
  assert _tune(run, out, "--how=lora", "--rank=2", "--alpha=4") == 0
  return out


def test_lora_moves_the_attention_alone(run, tuned, capsys):
  trained = checkpoints.load_weights(tuned / "finetune" / "diffusion", "ema")["params"]
  base = _flat(checkpoints.load_weights(run / "diffusion", "ema")["params"]["denoiser"])
  frozen = _flat(trained["denoiser"])
  assert all(frozen[name].tobytes() == base[name].tobytes() for name in base)
  for which in ("ema", "raw"):
    moved, _ = _moved(run, tuned, "diffusion", which)
    assert moved and all("['kernel']" in name for name in moved)
    assert all("al_attention']" in name for name in moved)
  folder = tuned / "finetune" / "diffusion" / "checkpoints" / "2"
  averages = {p.name for p in folder.iterdir() if p.name.startswith("ema_")}
  assert averages == {"ema_lora"}
  record = json.loads((tuned / "finetune.json").read_text())
  assert (record["rank"], record["alpha"], record["how"]) == (2, 4.0, "lora")
  # The same command again has nothing to do; another one is told so.
  assert _tune(run, tuned, "--how=lora", "--rank=2", "--alpha=4") == 0
  assert "finished before" in capsys.readouterr().out
  assert _tune(run, tuned, "--how=lora", "--rank=3") == 2
  assert "was begun with 2" in capsys.readouterr().err


def test_the_file_over_the_base_is_the_run_that_was_made(run, tuned, tmp_path):
  file = tuned / "lora.safetensors"
  base = lamd_jax.load(run)
  made = lambda **asked: _flat(lamd_jax.load(**asked).weights["diffusion"])
  of_run = _flat(base.weights["diffusion"])
  same = made(path=run, lora=file, lora_weight=0.0)
  assert all(same[name].tobytes() == of_run[name].tobytes() for name in of_run)
  merged, whole = made(path=run, lora=file), made(path=tuned)
  assert all(merged[name].tobytes() == whole[name].tobytes() for name in whole)
  out = tmp_path / "out"
  code = main.run([
    "main", f"--workdir={run}", "--mode=sample", "--sample.n=1", "--sample.steps=2",
    "--sample.formats=npz", f"--sample.lora={file}", "--sample.lora_weight=1",
    f"--sample.out={out}",
  ])  # fmt: skip
  assert code == 0
  record = json.loads((out / "samples.json").read_text())
  assert record["lora"][0]["weight"] == 1 and len(record["lora"][0]["sha256"]) == 64

  def clip(**asked):
    base.weights = lamd_jax.load(**asked).weights  # compiled once
    return base.generate(steps=2).frames

  plain, own = clip(path=run), clip(path=tuned)
  np.testing.assert_array_equal(clip(path=run, lora=file, lora_weight=0), plain)
  np.testing.assert_array_equal(own, np.load(out / "samples.npz")["arr_0"][0])
  assert (own != plain).any()


def test_an_export_merges(run, tuned, tmp_path):
  out, file = tmp_path / "out", tuned / "lora.safetensors"
  assert export.main([f"--workdir={run}", f"--out={out}", f"--merge={file}"]) == 0
  whole = _flat(lamd_jax.load(tuned).weights)
  merged = _flat(lamd_jax.load(out).weights)
  stage = [name for name in merged if name.startswith("['diffusion']")]
  assert all(merged[name].tobytes() == whole[name].tobytes() for name in stage)
  known = json.loads((out / "preprocessor.json").read_text())
  assert known["lora"][0]["file"] == "lora.safetensors"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for i in range(16):
    clip = np.random.default_rng(i).integers(0, 256, (8, 16, 16, 3), np.uint8)
    media.write_mp4(folder / f"{i}.mp4", clip, 12.0)
  return folder


@pytest.mark.parametrize(
  "options, code, message",
  [
    (["--workdir=absent"], 2, "no such folder"),
    (["--rank=0"], 2, "rank at least 1"),
    (["--how=full", "--rank=4"], 2, "--how=full: --rank and --alpha are of --how=lora"),
    (["--stage=autoencoder"], 2, "stages of this run are diffusion"),
    (["--config.model.denoiser.channels=64"], 2, "stays as it was in the run"),
    (["--config.data.size=32"], 2, "the run's networks are for 16; leave it out"),
    (["--config.data.tokenizer=words"], 2, "the run's networks are for 'none'"),
    (["--config.data.depth=world"], 2, "the run was trained with none"),
    (["--config.optim.autoencoder.steps=3"], 2, "only diffusion is trained"),
    (["--config.optim.diffusion.steps=0"], 2, "must lie between"),
    (["--config.data.rot=x"], 2, "did you mean data.root"),
    (["--config.data.root=absent"], 3, "absent"),
    (["--config=a.py"], 2, "are of lamd_jax.main"),
  ],
)
def test_it_refuses_in_one_line(run, tmp_path, capsys, options, code, message):
  assert _tune(run, tmp_path / "out", "--how=lora", *options) == code
  error = capsys.readouterr().err.strip()
  assert message in error and "\n" not in error and not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(run, capsys):
  assert _tune(run, run, "--how=full") == 2
  assert "holds something else" in capsys.readouterr().err


def test_other_videos_need_their_folder_alone_and_captions_where_text_is_read(videos):
  line = finetune.command_line.parse([f"--config.data.root={videos}"])
  config, typed = finetune._config(CONFIGS["lvdm"](), line)
  assert (config.data.source, typed) == ("folder", {"data.root"})
  finetune._check_data(config, "diffusion", 4)
  captioned = dict(data__source="folder", data__root=str(videos), data__world="sky")
  with pytest.raises(DataError, match="its videos have no captions"):
    finetune._check_data(tiny.text_config(**captioned), "diffusion", 4)
  classes = tiny.lamd_config(
    **captioned, model__text__encoder="none", model__motion__num_classes=3
  )
  with pytest.raises(DataError, match="knows classes 0 to 2"):
    finetune._check_data(classes, "motion_diffusion", 4)


@pytest.mark.slow
@pytest.mark.parametrize(
  "system, how",
  [("lvdm", "temporal"), ("lvdm", "full"), ("lamd", "lora"), ("lamd", "full"),
   ("gen1", "lora"), ("gen1", "temporal"), ("gen1", "full")],
)  # fmt: skip
def test_each_way_moves_what_it_says(tmp_path, system, how):
  run, out = _drawn(epath.Path(tmp_path) / "run", system), epath.Path(tmp_path) / "out"
  stage = STAGES[system]
  assert _tune(run, out, f"--how={how}", "--rank=2", stage=stage) == 0
  moved, everything = _moved(run, out, stage)
  temporal = {n for n in everything if "temporal_" in n}
  kernels = {n for n in everything if "attention']['" in n and "kernel" in n}
  if how == "full":
    assert len(moved) > 0.9 * len([n for n in everything if "extras" not in n])
  elif how == "temporal":
    assert moved and moved <= temporal
  else:
    assert moved and moved <= kernels and (system == "lamd" or moved & temporal)
  assert not [n for n in moved if "extras" in n]
  before, after = lamd_jax.load(run), lamd_jax.load(out)
  assert set(before.weights) == set(after.weights)
  if how == "lora":
    merged = lamd_jax.load(run, lora=out / "lora.safetensors").weights
    a, b = _flat(merged), _flat(after.weights)
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
  if (system, how) == ("lamd", "lora"):
    assert after.generate(steps=2).frames.std() > 0


@pytest.mark.slow
def test_an_export_and_own_videos_are_a_start_too(run, videos, tmp_path, capsys):
  out = tmp_path / "out"
  assert export.main([f"--workdir={run}", f"--out={tmp_path / 'export'}"]) == 0
  flags = (f"--config.data.root={videos}", "--how=temporal")
  assert _tune(tmp_path / "export", out, *flags) == 0
  made = lamd_jax.load(out)
  assert made.config.data.source == "folder" and made.generate(steps=2).frames.std() > 0
  assert _tune(run, tmp_path / "o", "--how=lora", "--config.data.size=17") == 2


@pytest.mark.slow
def test_motion_maps_have_no_temporal_layers(tmp_path, capsys):
  run = _drawn(epath.Path(tmp_path) / "run", "lamd")
  assert _tune(run, tmp_path / "o", "--how=temporal", stage="motion_diffusion") == 2
  assert "has no temporal layers; choose full or lora" in capsys.readouterr().err


@pytest.mark.slow
def test_a_converted_checkpoint_is_a_start(tmp_path):
  config, checkpoint = CONFIGS["lvdm"](), tmp_path / "last.ckpt"
  state = lvdm_files.state(convert_lvdm.networks(config))
  torch_writer.write_training(checkpoint, state)
  run, out = tmp_path / "run", epath.Path(tmp_path) / "out"
  latents = convert_lvdm.Latents(0.5, -0.25)
  convert_lvdm.convert_lvdm(checkpoint, run, config, latents, {})
  assert _tune(run, out, "--how=lora", "--rank=2") == 0
  # The file's average is what it goes on from.
  moved, _ = _moved(epath.Path(run), out, "diffusion")
  assert moved and all("al_attention']" in name for name in moved)
  assert lamd_jax.load(out).config.stages == config.stages
