# SPDX-License-Identifier: Apache-2.0
"""The whole way through the command: train, resume, sample, score; and its refusals."""

import json
import pathlib
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

import lamd_jax
from lamd_jax import main
from lamd_jax import media
from lamd_jax.tools import prepare
from lamd_jax.tools import prepare_latents

TESTS = pathlib.Path(__file__).parent
# What a user's config file would hold; `tiny` lies beside this file.
CONFIG = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("tiny", {str(TESTS / "tiny.py")!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

def get_config(variant="demo"):
  return tiny.config(train__report=True, train__latent_cache=True,
                     train__preview_every=3, train__tensorboard=True,
                     optim__autoencoder__steps=3, optim__diffusion__steps=3,
                     loss__gan_weight=0.0)
"""


_ALIKE = ("ddim", "heun", "euler")  # one step after the other, as ddpm


def _main(*arguments):
  return main.run(["main", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A workdir trained and scored by one command."""
  folder = tmp_path_factory.mktemp("run with # and space")
  (folder / "config.py").write_text(CONFIG)
  workdir = folder / "work"
  code = _main(
    f"--config={folder / 'config.py'}", f"--workdir={workdir}",
    "--eval.clips=8", "--eval.batch=8", "--eval.steps=2", "--eval.bootstrap=10",
  )  # fmt: skip
  assert code == 0
  return workdir


def test_training_leaves_what_it_promises(run):
  for name in ("config.json", "env.json", "eval/report.json", "gallery/index.html"):
    assert (run / name).is_file(), name
  for stage in ("autoencoder", "diffusion"):
    lines = (run / stage / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert list((run / stage / "samples" / "step_3").glob("*.mp4"))
    (events,) = (run / stage / "tensorboard").iterdir()
    assert b"| train.mesh | dp |" in events.read_bytes()
  status = json.loads((run / "STATUS").read_text())
  assert (status["state"], status["stage"], status["step"]) == ("finished", "diffusion", 3)
  report = json.loads((run / "eval" / "report.json").read_text())
  assert set(report["generation"]) == {
    "other real clips", "generated", "repeated first frame", "decoded random latents",
  }  # fmt: skip
  # Held-out real clips are nearer to real clips than noise of an untrained model is.
  scores = report["generation"]
  assert scores["other real clips"]["total"] < scores["decoded random latents"]["total"]


def test_finished_run_is_not_trained_again(run, capsys):
  before = (run / "diffusion" / "metrics.jsonl").read_text()
  assert _main(f"--workdir={run}", "--config.train.report=false") == 0
  assert capsys.readouterr().out.count("finished before") == 2
  assert (run / "diffusion" / "metrics.jsonl").read_text() == before
  stored = (run / "config.json").read_text()
  steps = "--config.optim.diffusion.steps=60"
  assert _main(f"--workdir={run}", "--config.train.report=false", steps) == 0
  ended = "diffusion: has ended, at 3 steps; for 60 remove"
  assert ended in capsys.readouterr().out
  assert (run / "config.json").read_text() == stored  # what was trained


def test_latents_encoded_ahead_are_those_that_training_caches(run, tmp_path, monkeypatch):
  ahead = tmp_path / "ahead"
  shutil.copytree(run, ahead)
  trained = next((run / "latent_cache").iterdir())
  shutil.rmtree(ahead / "latent_cache")
  monkeypatch.setattr(prepare_latents, "_PART_BATCHES", 1)  # 32 clips in 2 parts

  def stop(function, tasks):  # broken off after the first part
    function(tasks[0])
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    prepare_latents.run(ahead, None, (), stop)
  parts = ahead / "latent_cache" / f"{trained.name}.parts"
  first = parts / "00000-of-00002.npz"
  before = first.stat().st_mtime_ns
  kept = []

  def rest(function, tasks):
    kept.append([task.part for task in tasks])
    for task in tasks:
      function(task)
    assert first.stat().st_mtime_ns == before

  prepare_latents.run(ahead, None, ("diffusion",), rest)
  assert kept == [[1]] and not parts.exists()
  made = ahead / "latent_cache" / trained.name
  assert sorted(p.name for p in made.iterdir()) == [
    "complete.json", "log_variance.npy", "mean.npy"
  ]  # fmt: skip
  for path in made.iterdir():
    if path.suffix == ".npy":
      assert path.read_bytes() == (trained / path.name).read_bytes()
  for folder in (made, trained):
    complete = json.loads((folder / "complete.json").read_text())
    assert complete == {"count": 32, "fields": ["log_variance", "mean"]}
  # A second call has nothing to do.
  assert prepare.main(["--encode", f"--workdir={ahead}"]) == 0
  assert prepare.main(["--encode", f"--workdir={ahead}", "--stages=autoencoder"]) == 4


@pytest.mark.slow
def test_beam_encodes_the_latents_that_training_caches(run, tmp_path):
  pytest.importorskip("apache_beam", reason="apache-beam is not installed: lamd_jax[beam]")
  ahead = tmp_path / "ahead"
  shutil.copytree(run, ahead, ignore=shutil.ignore_patterns("latent_cache"))
  assert prepare.main(["--encode", f"--workdir={ahead}", "--runner=DirectRunner"]) == 0
  (trained,), (made,) = ((x / "latent_cache").iterdir() for x in (run, ahead))
  assert made.name == trained.name
  for path in made.glob("*.npy"):
    assert path.read_bytes() == (trained / path.name).read_bytes()


def test_samples_equal_those_of_python(run, tmp_path):
  out = tmp_path / "out"
  code = _main(
    f"--workdir={run}", "--mode=sample", "--sample.n=3", "--sample.steps=2",
    "--sample.seed=5", f"--sample.out={out}", "--sample.fps=12",
  )  # fmt: skip
  assert code == 0
  clips = np.load(out / "samples.npz")["arr_0"]
  assert clips.shape == (3, 4, 16, 16, 3) and clips.dtype == np.uint8
  made = lamd_jax.load(run).generate(3, steps=2, seed=5)
  np.testing.assert_array_equal(clips, np.stack([clip.frames for clip in made]))
  assert abs(clips[0].astype(int) - clips[1]).max() > 0
  video, fps = media.read_video(out / "001.mp4")
  assert video.shape == (4, 16, 16, 3) and fps == 12
  record = json.loads((out / "samples.json").read_text())
  assert record["sample"]["seed"] == 5 and record["sample"]["sampler"] == "dpmpp_2m"
  png = np.asarray(Image.open(out / "001" / "00002.png"))
  np.testing.assert_array_equal(png, clips[1, 2])


def test_a_clip_saves_and_shows_itself(run, tmp_path):
  clip = lamd_jax.load(run).generate(steps=2)
  clip.save(tmp_path / "sky.mp4")
  assert media.read_video(tmp_path / "sky.mp4")[0].shape == clip.frames.shape
  assert clip._repr_html_().startswith("<img src=")
  with pytest.raises(ValueError, match="unknown suffix"):
    clip.save(tmp_path / "sky.mov")


@pytest.mark.parametrize(
  "sampler",
  ["ddpm", "unipc", *(pytest.param(s, marks=pytest.mark.slow) for s in _ALIKE)],
)
def test_every_sampler_is_a_flag(run, sampler):
  clip = lamd_jax.load(run).generate(sampler=sampler, steps=2)
  assert clip.frames.std() > 0


def test_unknown_knob_names_the_known_ones(run):
  with pytest.raises(lamd_jax.api.ConfigError, match="cfg: no such knob"):
    lamd_jax.load(run).generate(cfg=3)


def test_paper_variant_says_all_that_is_missing(tmp_path, capsys):
  sky = pathlib.Path(__file__).parents[1] / "configs" / "lvdm_sky.py"
  batch = jax.device_count() * 2
  overrides = [f"--config.optim.{s}.batch={batch}" for s in ("autoencoder", "diffusion")]
  code = _main(f"--config={sky}", f"--workdir={tmp_path / 'run'}", *overrides)
  error = capsys.readouterr().err
  assert code == 3 and not (tmp_path / "run").exists()
  for word in ("data.root", "sky_train", "vgg16", "lamd_jax.tools.convert", ":demo"):
    assert word in error, word
  (tmp_path / "data").mkdir()
  root = f"--config.data.root={tmp_path / 'data'}"
  assert _main(f"--config={sky}", f"--workdir={tmp_path / 'run'}", root, *overrides) == 4
  assert "data:" not in capsys.readouterr().err


def test_dry_run_computes_nothing(tmp_path, capsys):
  sky = pathlib.Path(__file__).parents[1] / "configs" / "lvdm_sky.py"
  assert _main(f"--config={sky}:demo", f"--workdir={tmp_path / 'run'}", "--dry_run") == 0
  out = capsys.readouterr().out
  assert "parameters denoiser" in out and "memory a device" in out
  assert not (tmp_path / "run").exists()


def test_resume_says_what_the_workdir_lacks_or_holds(run, tmp_path, capsys):
  config = run.parent / "config.py"
  assert _main(f"--config={config}", f"--workdir={tmp_path / 'x'}", "--resume=must") == 2
  assert "holds no checkpoint" in capsys.readouterr().err
  assert not (tmp_path / "x").exists()
  assert _main(f"--workdir={run}", "--resume=never") == 2
  assert "autoencoder, diffusion" in capsys.readouterr().err
