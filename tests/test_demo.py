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


@pytest.fixture(scope="session")
def lamd(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("lamd")
  _command(
    "lamd_jax.main", "--config=configs/lamd_cater_gen_v1.py:demo",
    f"--workdir={workdir}", "--eval.clips=256", "--eval.steps=10", "--eval.guidance=4",
  )  # fmt: skip
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
  """Better than shuffled captions, 95 % intervals apart.

  The demo trains too short for a large difference, about 0.07: intervals of 256 clips,
  0.04 and 0.03 to either side, may still touch.
  """
  _command(
    "lamd_jax.main", "--config=configs/lvdm_cater.py:demo", f"--workdir={tmp_path}",
    "--eval.clips=512", "--eval.steps=10", "--eval.bootstrap=1000",
  )  # fmt: skip
  scores = _report(tmp_path)["caption_following"]["generated"]
  assert scores["clips"] == 512
  matched, shuffled = scores["matched"]["combined"], scores["shuffled"]["combined"]
  assert matched["interval"][0] > shuffled["interval"][1]


def test_images_move_as_captions_say(lamd):
  """Better than shuffled captions and a still image, 95 % intervals apart."""
  scores = _report(lamd)["caption_following"]
  matched = scores["generated"]["matched"]["combined"]["interval"]
  assert matched[0] > scores["generated"]["shuffled"]["combined"]["interval"][1]
  still = scores["repeated first frame"]["matched"]["combined"]
  assert matched[0] > still["interval"][1]
  first = _report(lamd)["first_frame"]
  other = first["another image"]["psnr"]
  assert first["generated"]["psnr"]["interval"][0] > other["interval"][1]


@pytest.fixture(scope="session")
def disentangled(lamd, tmp_path_factory):
  out = tmp_path_factory.mktemp("disentanglement")
  _command("lamd_jax.tools.disentanglement", f"--workdir={lamd}", f"--out={out}")
  return json.loads((out / "disentanglement.json").read_text())


def test_a_swapped_motion_map_brings_its_motion_along(disentangled):
  found = disentangled["motion"]["swapped z_m"]
  assert found["donor"]["correlation"]["value"] > 0.7
  error = {name: found[name]["error"]["interval"] for name in ("donor", "own", "shuffled")}
  assert error["donor"][1] < min(error["own"][0], error["shuffled"][0])
  psnr = disentangled["transfer_psnr"]
  near, far = psnr["to the true clip of that motion"], psnr["to the image's own clip"]
  assert near["interval"][0] > far["interval"][1]


def test_a_shuffled_motion_map_ruins_the_reconstruction(disentangled):
  found = disentangled["reconstruction"]
  assert found["own"]["interval"][0] > found["shuffled"]["interval"][1]


def test_content_comes_from_the_image(disentangled):
  # Of the first frame. What moves far does not keep its colour in this demo.
  found = disentangled["appearance"]["swapped z_m"]
  image, donor = found["first_frame"], found["donor_first_frame"]
  assert image["interval"][0] > donor["interval"][1]


def test_a_motion_map_tells_displacement_and_little_of_colour(disentangled):
  motion, content = (disentangled["probes"][name] for name in ("z_m", "f_x0"))
  r2 = "displacement_r2"
  assert motion[r2]["interval"][0] > max(0.3, content[r2]["interval"][1])
  read = [probe["colour"]["accuracy"]["value"] for probe in (motion, content)]
  assert read[0] < read[1] / 2
