# SPDX-License-Identifier: Apache-2.0
"""The benchmark of cost against length compares what it says it compares."""

import pytest

from lamd_jax.training import flops
from benchmarks import lamd_sampling


def _count(name, part, frames):
  function, arguments = lamd_sampling.program(
    name, part, frames, size=16, steps=2, paper=False
  )
  return flops.count(function, *arguments)


def test_a_chain_of_lamd_costs_the_same_at_any_length():
  short, long = (_count("lamd", "chain", frames) for frames in (8, 16))
  assert short == long


def test_the_other_chains_and_every_decoder_cost_more_the_longer():
  for name, part in (("pixels", "chain"), ("lamd", "decode")):
    short, long = (_count(name, part, frames) for frames in (8, 16))
    # The stages of LaMD's decoder in which time is still short weigh little.
    assert long / short == pytest.approx(2, rel=0.1)


def test_systems_differ_by_the_positions_of_their_maps():
  """Attention and what is done once a clip or a step keep it from being exact."""
  latent, pixels = (_count(name, "chain", 8) for name in ("latent", "pixels"))
  assert pixels / latent == pytest.approx(4 * 4**2, rel=0.25)
