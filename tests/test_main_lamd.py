# SPDX-License-Identifier: Apache-2.0
"""LaMD through the command: train, score, animate an image, take a motion over."""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest

import lamd_jax
from lamd_jax import main

TESTS = pathlib.Path(__file__).parent
CONFIG = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("tiny", {str(TESTS / "tiny.py")!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

def get_config(variant="demo"):
  return tiny.lamd_config(train__latent_cache=True, train__preview_every=2,
                          train__report=True, loss__gan_weight=0.0,
                          data__tokenizer="none", data__label_actions=True,
                          model__text__encoder="none", model__motion__num_classes=16,
                          model__motion__context_width=16,
                          optim__motion_autoencoder__steps=2,
                          optim__motion_diffusion__steps=2)
"""
SAMPLE = ("--mode=sample", "--sample.steps=2", "--sample.n=2")


def _main(*arguments):
  return main.run(["main", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A class-conditional run, trained and scored by one command."""
  folder = tmp_path_factory.mktemp("lamd")
  (folder / "config.py").write_text(CONFIG)
  workdir = folder / "work"
  code = _main(
    f"--config={folder / 'config.py'}", f"--workdir={workdir}",
    "--eval.clips=8", "--eval.batch=8", "--eval.steps=2", "--eval.bootstrap=10",
  )  # fmt: skip
  assert code == 0
  return workdir


@pytest.fixture(scope="module")
def image(tmp_path_factory):
  path = tmp_path_factory.mktemp("image") / "photo.png"
  pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 4), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def test_training_leaves_what_it_promises(run):
  for stage, clips in (
    ("motion_autoencoder", ("input", "reconstruction", "motion_of_the_next")),
    ("motion_diffusion", ("input", "samples")),
  ):
    found = {p.stem for p in (run / stage / "samples" / "step_2").glob("*.mp4")}
    assert set(clips) <= found
  cache = next((run / "latent_cache").iterdir())
  assert np.load(cache / "image.npy").shape == (32, 1, 16, 16, 3)
  report = json.loads((run / "eval" / "report.json").read_text())
  assert set(report["generation"]) == {
    "other real clips", "generated", "repeated first frame", "decoded random latents",
  }  # fmt: skip
  assert set(report["first_frame"]) == {
    "reconstructed", "generated", "motion of the next clip", "another image",
  }  # fmt: skip
  assert (run / "gallery" / "motion_of_the_next_clip_000.mp4").is_file()


def test_an_image_moves_as_in_python_and_is_kept_if_asked(run, image, tmp_path, capsys):
  options = (f"--sample.image={image}", "--sample.label=3", f"--sample.out={tmp_path}")
  more = ("--sample.replace_first_frame=true", "--sample.guidance=2", "--sample.strip=3")
  assert _main(f"--workdir={run}", *SAMPLE, *options, *more) == 0
  said = capsys.readouterr().out
  assert said.count("alpha laid over white, 20x24 fitted to 16x16") >= 1
  clips = np.load(tmp_path / "samples.npz")["arr_0"]
  model = lamd_jax.load(run)
  made = model.generate(
    2, image=image, label=3, steps=2, guidance=2.0, replace_first_frame=True
  )
  np.testing.assert_array_equal(clips, np.stack([clip.frames for clip in made]))
  np.testing.assert_array_equal(clips[0, 0], clips[1, 0])  # the same image
  assert Image.open(tmp_path / "strip.png").size == (6 * 17 - 1, 3 * 17 - 1)
  plain = model.generate(2, image=image, label=3, steps=2, guidance=2.0)
  np.testing.assert_array_equal(plain[0].frames[1:], clips[0, 1:])


def test_a_motion_is_taken_over(run, image, tmp_path):
  model = lamd_jax.load(run)
  donor = model.generate(steps=2, seed=1)
  by_clip = model.generate(image=image, motion_from=donor)
  by_array = model.generate(image=image, motion_from=donor.frames, seed=9)
  np.testing.assert_array_equal(by_clip.frames, by_array.frames)  # nothing is drawn
  donor.save(tmp_path / "donor.gif")
  code = _main(
    f"--workdir={run}", *SAMPLE, f"--sample.image={image}",
    f"--sample.motion_from={tmp_path / 'donor.gif'}", f"--sample.out={tmp_path / 'o'}",
  )  # fmt: skip
  assert code == 0
  assert np.load(tmp_path / "o" / "samples.npz")["arr_0"].shape == (2, 6, 16, 16, 3)


@pytest.mark.parametrize(
  "options, code, message",
  [
    (["--sample.image=absent.png"], 3, "no such file"),
    (["--sample.motion_from=absent.mp4"], 3, "no video"),
    (["--sample.label=16"], 2, "0 to 15"),
    (["--sample.text=go"], 2, "takes no text"),
    (["--sample.frames=8"], 2, "makes 6 frames"),
    (["--sample.long=sliding"], 2, "lvdm"),
    (["--sample.strip=4"], 2, "states 2 to 3"),
    (["--sample.motion_from=a.mp4", "--sample.label=1"], 2, "leave text, label"),
  ],
)
def test_refusals_are_one_line(run, capsys, options, code, message):
  assert _main(f"--workdir={run}", *SAMPLE, *options) == code
  error = capsys.readouterr().err.strip()
  assert message in error and "\n" not in error


def test_lvdm_takes_no_image(tmp_path, capsys):
  config = TESTS.parent / "configs" / "lvdm_sky.py"
  code = _main(
    f"--config={config}:demo", f"--workdir={tmp_path}", "--mode=sample",
    "--sample.image=a.png",
  )  # fmt: skip
  assert code == 2 and "let an image move" in capsys.readouterr().err
