# SPDX-License-Identifier: Apache-2.0
"""Depth latents have mean 0 and variance 1 by the statistics of what was seen."""

import numpy as np
import pytest

from lamd_jax.nn import depth_moments

RANDOM = np.random.default_rng(0)
GROUND = RANDOM.standard_normal((4, 6, 2)).astype(np.float32)


def _latents(clips=3):
  """A ground alike in all clips, and small deviations, ten times less in channel 1."""
  small = RANDOM.standard_normal((clips, 5, 4, 6, 2)) * [0.1, 0.01]
  return (3 * GROUND + small).astype(np.float32)


def _after(batches, momentum=0.01):
  extras = depth_moments.initial((4, 6, 2))
  for z in batches:
    extras = depth_moments.measured(extras, z, momentum)
  return extras


def test_equal_batches_are_averaged():
  """Until 1/n falls below the momentum: the statistics of all clips together."""
  batches = [_latents() for _ in range(8)]
  extras = _after(batches)
  whole = np.concatenate(batches)
  np.testing.assert_allclose(extras["depth_mean"], whole.mean((0, 1)), atol=1e-5)
  assert extras["depth_count"] == 8
  z = np.asarray(depth_moments.standardise(whole, extras))
  assert np.abs(z.mean((0, 1))).max() < 1e-2
  assert z.std((0, 1, 2, 3)) == pytest.approx([1, 1], rel=0.1)


def test_later_batches_count_by_the_momentum():
  first, second = _latents(), _latents() + 1
  extras = _after([first, second], momentum=0.9)
  expected = 0.1 * first.mean((0, 1)) + 0.9 * second.mean((0, 1))
  np.testing.assert_allclose(extras["depth_mean"], expected, atol=1e-5)


def test_other_things_in_extras_stay():
  extras = {**depth_moments.initial((4, 6, 2)), "embedding_mean": 5}
  assert depth_moments.measured(extras, _latents(), 0.01)["embedding_mean"] == 5


def test_the_ground_is_stretched_to_other_sizes():
  extras = _after([_latents()])
  flat = {**extras, "depth_mean": np.ones((4, 6, 2), np.float32)}
  z = np.ones((1, 2, 8, 3, 2), np.float32)
  found = np.asarray(depth_moments.standardise(z, flat))
  assert found.shape == z.shape and np.abs(found).max() < 1e-4
