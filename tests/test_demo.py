# SPDX-License-Identifier: Apache-2.0
"""The README's first command, trained to its end: minutes on two cores."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def report(tmp_path_factory):
  """The demo's scores."""
  workdir = tmp_path_factory.mktemp("demo")
  command = [sys.executable, "-m", "lamd_jax.main", "--config=configs/lvdm_sky.py:demo"]
  subprocess.run([*command, f"--workdir={workdir}"], cwd=ROOT, check=True)
  assert (workdir / "gallery" / "index.html").is_file()
  return json.loads((workdir / "eval" / "report.json").read_text())


def test_reconstruction_on_held_out_clips(report):
  found = report["reconstruction"]
  assert found["psnr"] >= 26
  assert found["psnr"] > found["psnr_repeated_first_frame"]


@pytest.mark.parametrize("baseline", ["repeated first frame", "decoded random latents"])
def test_generated_clips_are_nearer_to_real_ones(report, baseline):
  scores = report["generation"]
  assert scores["generated"]["total"] < scores[baseline]["total"]
