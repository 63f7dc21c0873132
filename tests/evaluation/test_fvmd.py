# SPDX-License-Identifier: Apache-2.0
"""FVMD on tracks whose velocities and accelerations are known."""

import numpy as np
import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import fvmd


def _tracks(x, frames=16):
  """Points of the grid, all moved by x [frames] pixels to the right."""
  rows, columns = np.mgrid[:20, :20] * 12.0
  at = np.stack([columns, rows], -1)
  return at + np.stack([np.asarray(x), np.zeros(frames)], -1)[:, None, None]


def test_constant_velocity_counts_in_one_direction():
  tracks = _tracks(3.0 * np.arange(16))[None]
  found = fvmd.histogram(fvmd.velocity(tracks)).reshape(4, 4, 4, 8)
  # Angle 0 is the fifth of eight bins from -pi. |v| = 3 weighs ceil(log2 4) / 8 = 1/4,
  # 25 points, 4 frames; the first frame has no velocity.
  expected = np.zeros((4, 4, 4, 8))
  expected[..., 4] = 25
  expected[0, ..., 4] = 18.75
  np.testing.assert_allclose(found, expected)


def test_acceleration_true_and_as_released():
  t = np.arange(16)
  constant, growing = (_tracks(x)[None] for x in (3.0 * t, 0.5 * t**2))
  second = lambda tracks, released: fvmd.features(tracks, released)[:, 512:]
  assert not second(constant, False).any() and second(growing, False).any()
  # The release's "acceleration" of a constant velocity is that velocity.
  np.testing.assert_allclose(
    second(constant, True).sum(), (14 * 400) * 0.25
  )
  truth = fvmd.acceleration(fvmd.velocity(growing))[0, :, 0, 0, 0]
  np.testing.assert_allclose(truth, [0, 0, *[1] * 14])


def test_windows_share_a_frame():
  tracks = _tracks(np.arange(31), 31)[None]
  found = fvmd.windows(tracks)
  assert found.shape == (2, 16, 20, 20, 2)
  np.testing.assert_array_equal(found[0, -1], found[1, 0])
  for bad, message in ((tracks[:, :15], "15 frames"), (tracks[..., 0], "is due")):
    with pytest.raises(DataError, match=message):
      fvmd.windows(bad)


@pytest.mark.parametrize("released", [True, False])
def test_distance_orders_speeds(released):
  rng = np.random.default_rng(0)

  def draw(speed):
    steps = speed * (1 + 0.2 * rng.standard_normal((12, 1))) * np.arange(16)
    return np.stack([_tracks(x) for x in steps])

  slow, again, faster, fast = draw(2), draw(2), draw(8), draw(40)
  near, middle, far = (fvmd.distance(slow, x, released) for x in (again, faster, fast))
  assert near < middle < far
  assert fvmd.distance(slow, slow, released) == pytest.approx(0, abs=0.05)
