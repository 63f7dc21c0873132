# SPDX-License-Identifier: Apache-2.0
"""The benchmark of quality against steps: what it asks for, keeps and shows."""

import argparse

import numpy as np
from PIL import Image

from benchmarks import few_steps
from lamd_jax.systems import distill_stage


class _Clip:
  def __init__(self, frames):
    self.frames = frames


class _Model:
  """Notes what it is asked for."""

  def __init__(self):
    self.asked = []

  def generate(self, n, **knobs):
    self.asked.append(knobs)
    return [_Clip(np.full((4, 8, 8, 3), i, np.uint8)) for i in range(n)]


def test_chains_are_made_once_each_with_its_spacing(tmp_path):
  flags = argparse.Namespace(
    out=tmp_path, clips=3, seed=1, batch=64, resamples=10
  )
  model = _Model()
  for sampler, spacing, steps in few_steps.chains(
    ["consistency:2", "ddim/log_snr:2", "ddim/log_snr:2"]
  ):
    clips = few_steps.made(model, flags, sampler, spacing, steps)
    assert clips.shape == (3, 4, 8, 8, 3) and clips[2].max() == 2
  assert [x["spacing"] for x in model.asked] == ["trailing", "log_snr"]
  assert {x["batch"] for x in model.asked} == {3}


def test_default_chains_hold_the_distilled_network_and_its_teachers():
  found = few_steps.chains(few_steps.CHAINS)
  assert [s for name, _, s in found if name == distill_stage.SAMPLER] == [1, 2, 4, 8]
  assert ("ddim", "trailing", 1) in found and ("dpmpp_2m", "log_snr", 20) in found
  assert len(set(found)) == len(found)


def test_sheet_has_a_row_a_chain(tmp_path):
  clips = {"a": np.zeros((5, 4, 8, 8, 3), np.uint8), "b": np.full((2, 4, 8, 8, 3), 9, np.uint8)}
  few_steps.sheet({"a": clips["a"], "b": np.repeat(clips["b"], 2, axis=0)}, tmp_path / "s.png")
  made = np.asarray(Image.open(tmp_path / "s.png"))
  side = 8 * few_steps.SCALE + 2
  assert made.shape == (2 * side, few_steps.SHOWN * few_steps.FRAMES * side, 3)
  assert made[0, 0].max() == 0 and made[side, 0].max() == 9


def test_a_row_reads_as_value_and_interval():
  score = {
    "total": 3.0, "mean": 2.0, "covariance": 1.0,
    "interval": {"total": [2.5, 4], "mean": [1, 3], "covariance": [0, 2]},
  }  # fmt: skip
  assert few_steps.row("ddim", "4", score) == (
    "ddim", "4", "3.00 [2.50, 4.00]", "2.00 [1.00, 3.00]", "1.00 [0.00, 2.00]"
  )
