# SPDX-License-Identifier: Apache-2.0
"""Long video through the command: trained, streamed, broken off, continued."""

import json
import pathlib

import numpy as np
import pytest

from lamd_jax import long_video
from lamd_jax import main
from lamd_jax import media

TESTS = pathlib.Path(__file__).parent
CONFIG = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("tiny", {str(TESTS / "tiny.py")!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

def get_config(variant="demo"):
  return tiny.config(
    stages=("autoencoder", "prediction", "interpolation"),
    prediction__sparse=2, prediction__latents=4, interpolation__latents=3,
    interpolation__p_prediction=0.3, interpolation__p_interpolation=0.5,
    optim__autoencoder__steps=2, optim__prediction__steps=2,
    optim__interpolation__steps=2, loss__gan_weight=0.0,
    train__latent_cache=True, train__preview_every=2,
  )
"""


def _main(*arguments):
  return main.run(["main", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("long")
  (folder / "config.py").write_text(CONFIG)
  workdir = folder / "work"
  assert _main(f"--config={folder / 'config.py'}", f"--workdir={workdir}") == 0
  return workdir


def _sample(run, out, *arguments):
  return _main(
    f"--workdir={run}", "--mode=sample", "--sample.steps=2", f"--sample.out={out}",
    "--sample.n=1", "--sample.noise_level=10", "--sample.frames=41",
    "--sample.formats=('mp4','npz')", *arguments,
  )  # fmt: skip


def test_conditional_stages_are_trained_and_shown(run):
  for stage, kind in (("prediction", "keyframes"), ("interpolation", "samples")):
    assert (run / stage / "finished.json").is_file()
    assert list((run / stage / "samples" / "step_2").glob(f"{kind}*"))


@pytest.mark.parametrize(
  "long", [pytest.param("autoregressive", marks=pytest.mark.slow), "hierarchical"]
)
def test_a_broken_off_video_continues_to_the_same_frames(
  run, tmp_path, monkeypatch, long
):
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  assert _sample(run, whole, f"--sample.long={long}") == 0
  unit, made = long_video.LongVideo.unit, []

  def dies(self, k, carry):
    if k == 2:
      raise OSError("the machine went away")
    return unit(self, k, carry)

  with monkeypatch.context() as patched:
    patched.setattr(long_video.LongVideo, "unit", dies)
    with pytest.raises(OSError):
      _sample(run, broken, f"--sample.long={long}")

  def counts(self, k, carry):
    made.append(k)
    return unit(self, k, carry)

  monkeypatch.setattr(long_video.LongVideo, "unit", counts)
  assert _sample(run, broken, f"--sample.long={long}") == 0
  assert made[0] == 2
  frames = lambda folder: np.load(folder / "000" / "frames.npy")
  np.testing.assert_array_equal(frames(whole), frames(broken))
  assert frames(whole).shape == (41, 16, 16, 3)
  video, fps = media.read_video(broken / "000" / "video.mp4")
  assert len(video) == 41 and fps == 8
  # Other settings would make other frames: refused, nothing touched.
  assert _sample(run, broken, f"--sample.long={long}", "--sample.seed=1") == 2


def test_a_run_that_was_trained_again_is_another(run, tmp_path, capsys):
  """Its config is the same. A video that was begun before this was known goes on."""
  arguments = ("--sample.long=hierarchical", "--sample.frames=9")
  journal = tmp_path / "000" / "journal.json"
  named = "--sample.formats=mp4,gif,png,npz"  # all four, as is usual for clips
  assert _sample(run, tmp_path, *arguments, named) == 0
  for name in ("video.mp4", "video.gif", "frames", "frames.npy"):
    assert (journal.parent / name).exists(), name
  manifests = list((run / "prediction" / "checkpoints").glob("*/manifest.json"))
  before = [path.read_text() for path in manifests]
  try:
    for path, text in zip(manifests, before):
      path.write_text(text + "\n")  # as another hash of a file would
    capsys.readouterr()
    assert _sample(run, tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert "weights_of.prediction=" in error and error.count("\n") == 1
    record = json.loads(journal.read_text())
    assert set(record["settings"].pop("weights_of")) == {
      "autoencoder", "prediction", "interpolation"
    }
    journal.write_text(json.dumps(record))
    assert _sample(run, tmp_path, *arguments) == 0
    assert "finished before" in capsys.readouterr().out
  finally:
    for path, text in zip(manifests, before):
      path.write_text(text)


def test_what_a_run_cannot_do_is_one_line(run, tmp_path, capsys):
  assert _sample(run, tmp_path, "--sample.long=sliding") == 2
  error = capsys.readouterr().err
  assert "trains no diffusion" in error and error.count("\n") == 1


def test_short_clips_come_from_the_frame_by_frame_network(run, tmp_path, capsys):
  short = lambda *more: _main(
    f"--workdir={run}", "--mode=sample", "--sample.steps=2", "--sample.n=2", *more
  )
  video = tmp_path / "000" / "journal.json"  # of a long video, a clip's pictures go there
  video.parent.mkdir()
  video.touch()
  assert short(f"--sample.out={tmp_path}") == 2
  assert short(f"--sample.out={video}/below") == 2
  error = capsys.readouterr().err
  assert "holds a long" in error and "cannot be written" in error
  assert error.count("\n") == 2
  for formats in ("mp4,npz", "npz"):
    assert short(f"--sample.out={tmp_path}", f"--sample.formats={formats}") == 0
  # The second one removes what the first one wrote, and no more.
  assert {path.name for path in tmp_path.iterdir()} == {
    "000", "samples.npz", "sheet.png", "samples.json"
  }
  assert video.exists()
  record = json.loads((tmp_path / "samples.json").read_text())
  assert record["frames"] == [4, 16, 16, 3]
