# SPDX-License-Identifier: Apache-2.0
"""The README's demos, trained to their ends: half an hour on two cores."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from lamd_jax import media

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def _command(*arguments):
  # As a user starts it: the tests' own compiler flags make slow programs.
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  command = [sys.executable, "-m", *map(str, arguments)]
  subprocess.run(command, cwd=ROOT, env=environment, check=True)


def _report(workdir):
  assert (workdir / "gallery" / "index.html").is_file()
  return json.loads((workdir / "eval" / "report.json").read_text())


@pytest.fixture(scope="session")
def sky(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("sky")
  _command("lamd_jax.main", "--config=configs/lvdm_sky.py:demo", f"--workdir={workdir}")
  return workdir


@pytest.fixture(scope="session")
def sky_long(sky, tmp_path_factory):
  """On the autoencoder of `sky`, which is the same."""
  workdir = tmp_path_factory.mktemp("long")
  shutil.copytree(sky / "autoencoder", workdir / "autoencoder")
  _command(
    "lamd_jax.main", "--config=configs/lvdm_sky_long.py:demo", f"--workdir={workdir}"
  )
  return workdir


def test_reconstruction_on_held_out_clips(sky):
  found = _report(sky)["reconstruction"]
  assert found["psnr"] >= 26
  assert found["psnr"] > found["psnr_repeated_first_frame"]


@pytest.mark.parametrize("baseline", ["repeated first frame", "decoded random latents"])
@pytest.mark.parametrize("run", ["sky", "sky_long"])
def test_generated_clips_are_nearer_to_real_ones(request, run, baseline):
  scores = _report(request.getfixturevalue(run))["generation"]
  # Below the baseline by more than chance: the intervals lie apart.
  high = scores["generated"]["interval"]["total"][1]
  assert high < scores[baseline]["interval"]["total"][0]


@pytest.mark.parametrize("long", ["hierarchical", "autoregressive"])
def test_long_videos_do_not_fall_apart(sky_long, tmp_path, long):
  """The end of 512 frames is still nearer to real clips than a still picture is."""
  _command(
    "lamd_jax.tools.long_report", f"--workdir={sky_long}", f"--out={tmp_path}",
    f"--long={long}", "--frames=512", "--videos=4", "--steps=10",
    "--noise-levels", "100", "--guidance", "1.0", "--resamples=50",
  )  # fmt: skip
  found = json.loads((tmp_path / "summary.json").read_text())["summary"]
  still = _report(sky_long)["generation"]["repeated first frame"]["total"]
  assert found["s=100 guidance=1"]["last"][0] < still
  assert found["real videos"]["last"][0] < found["s=100 guidance=1"]["last"][0]


def test_a_long_video_through_the_command(sky_long, tmp_path):
  _command(
    "lamd_jax.main", f"--workdir={sky_long}", "--mode=sample", "--sample.n=1",
    "--sample.long=hierarchical", "--sample.frames=200", "--sample.steps=8",
    f"--sample.out={tmp_path}",
  )  # fmt: skip
  frames, fps = media.read_video(tmp_path / "000" / "video.mp4")
  assert len(frames) == 200 and fps == 8


def test_samples_follow_their_captions(tmp_path):
  """Better than shuffled captions, 95 % intervals apart, on 256 held-out clips."""
  _command(
    "lamd_jax.main", "--config=configs/lvdm_cater.py:demo", f"--workdir={tmp_path}",
    "--eval.clips=256", "--eval.bootstrap=1000",
  )  # fmt: skip
  scores = _report(tmp_path)["caption_following"]["generated"]
  assert scores["clips"] == 256
  matched, shuffled = scores["matched"]["combined"], scores["shuffled"]["combined"]
  assert matched["interval"][0] > shuffled["interval"][1]
