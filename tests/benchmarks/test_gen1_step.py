# SPDX-License-Identifier: Apache-2.0
"""The benchmark of Gen-1's steps compares what it says it compares."""

import pytest

from lamd_jax.training import flops
from benchmarks import gen1_step


def _count(case):
  function, shapes = gen1_step.program(case, channels=32, frames=2, size=8)
  return flops.count(function, *shapes)


@pytest.mark.slow  # traces the whole network twice
def test_guidance_without_the_image_model_costs_two_calls():
  # One call for both, with the null content as more rows.
  assert _count("guidance_1") == pytest.approx(2 * _count("video_forward"), rel=0.01)
