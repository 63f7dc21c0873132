# SPDX-License-Identifier: Apache-2.0
"""Gen-1's demo, trained to its end and scored: some twenty-five minutes on two cores."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def report(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("gen1")
  # As a user starts it: the tests' own compiler flags make slow programs.
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  command = [sys.executable, "-m", "lamd_jax.main", f"--workdir={workdir}"]
  command += ["--config=configs/gen1_cater.py:demo"]
  subprocess.run(command, cwd=ROOT, env=environment, check=True)
  assert (workdir / "gallery" / "index.html").is_file()
  assert (workdir / "eval" / "edits.csv").is_file()
  return json.loads((workdir / "eval" / "report.json").read_text())


def _points(report, knob):
  return {p["value"]: p["scores"] for p in report["curves"] if p["knob"] == knob}


def test_full_depth_keeps_objects_where_they_are(report):
  edited = _points(report, "structure_level")[0]["mask_iou"]
  floor = report["baselines"]["random pairs"]["mask_iou"]
  assert edited["interval"][0] > floor["interval"][1]
  rebuilt = report["baselines"]["true clips, rebuilt"]["mask_iou"]
  assert edited["mean"] > rebuilt["mean"] / 2


def test_the_cone_takes_the_colour_that_is_asked_for(report):
  edited = [score["colour"] for score in _points(report, "guidance").values()]
  assert max(score["interval"][0] for score in edited) > 1 / 8  # of eight colours


def test_the_tracker_reads_true_clips(report):
  true = report["baselines"]["true clips"]
  assert true["colour"]["mean"] > 0.95 and true["mask_iou"]["mean"] > 0.8


def test_every_direction_is_reported(report):
  """Whether they are held is a result, not a condition."""
  assert len(report["directions"]) == 3
  assert all(isinstance(claim["by_order"], bool) for claim in report["directions"])
