# SPDX-License-Identifier: Apache-2.0
"""Gen-1's blur pyramid: what every level keeps, and what it takes away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.ops import blur_pyramid

SIZES = [(32, 32), (24, 40), (45, 30), (256, 448)]
LEVELS = 7


@pytest.fixture(scope="module", params=SIZES, ids=str)
def maps(request):
  return request.param, blur_pyramid.maps(*request.param, LEVELS)


def test_shapes_and_level_0(maps):
  (height, width), (rows, columns) = maps
  assert rows.shape == (8, height, height) and columns.shape == (8, width, width)
  assert rows.dtype == columns.dtype == np.float32
  np.testing.assert_array_equal(rows[0], np.eye(height))
  np.testing.assert_array_equal(columns[0], np.eye(width))


def test_rows_sum_to_one_and_no_weight_is_negative(maps):
  for table in maps[1]:
    np.testing.assert_allclose(table.sum(-1, dtype=np.float64), 1, atol=1e-6)
    assert table.min() >= 0


def test_last_level_has_rank_two_on_the_short_side(maps):
  (height, width), (rows, columns) = maps
  short, long = (rows, columns) if height <= width else (columns, rows)
  assert np.linalg.matrix_rank(short[LEVELS].astype(np.float64), 1e-5) <= 2
  ranks = [np.linalg.matrix_rank(m.astype(np.float64), 1e-5) for m in long]
  assert ranks[0] == max(height, width) and ranks[LEVELS] <= 8


def test_high_frequencies_fall_with_every_level(maps):
  (height, width), (rows, columns) = maps
  noise = np.random.default_rng(0).standard_normal((height, width))
  energy = []
  for a, b in zip(rows, columns):
    y = a @ noise @ b.T
    energy.append(np.square(np.diff(y, axis=0)).mean() + np.square(np.diff(y)).mean())
  assert all(np.diff(energy) < 0)
  # The upper half of the spectrum is gone after a few rounds.
  assert energy[3] < 0.1 * energy[0] and energy[LEVELS] < 1e-3 * energy[0]


def test_sizes_at_the_papers_frame_are_halves():
  assert blur_pyramid.sizes(256, 2.0, 7) == [256, 128, 64, 32, 16, 8, 4, 2]
  # 448 / 2^7 is 3.5; 64 at r = 32^(1/7) = 1.6407.
  assert blur_pyramid.sizes(448, 2.0, 7)[-2:] == [7, 4]
  assert blur_pyramid.sizes(64, 32 ** (1 / 7), 7) == [64, 39, 24, 14, 9, 5, 3, 2]


def test_one_round_by_hand():
  # 8 pixels, one level: r = 4. Blurred, then 2 pixels at 1.5 and 5.5, the means of
  # blurred pixels 1, 2 and 5, 6. An impulse at 2 is blurred to 1 4 6 4 1 over 0..4.
  rows, _ = blur_pyramid.maps(8, 8, 1)
  low, high = (4 + 6) / 2 / 16, 0.0
  # Upsampled: pixels 0 and 1 lie before 1.5, pixels 6 and 7 behind 5.5.
  weights = np.array([0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1])
  np.testing.assert_allclose(rows[1][:, 2], low + (high - low) * weights, atol=1e-7)


@pytest.fixture(scope="module")
def degrade():
  return jax.jit(blur_pyramid.degrade, static_argnums=2)


def test_each_clip_has_its_own_level(degrade):
  rng = np.random.default_rng(1)
  depth = rng.standard_normal((4, 2, 12, 20, 3)).astype(np.float32)
  level = np.array([0, 3, 7, 1], np.int32)
  found = degrade(depth, level, LEVELS)
  assert found.shape == depth.shape and found.dtype == jnp.float32
  np.testing.assert_array_equal(found[0], depth[0])
  rows, columns = blur_pyramid.maps(12, 20, LEVELS)
  for b, t in enumerate(level):
    wanted = np.einsum("oh,thwc,pw->topc", rows[t], depth[b], columns[t])
    np.testing.assert_allclose(found[b], wanted, atol=2e-6)
  # Other levels, same program; a constant survives all of them.
  flat = np.full_like(depth, 0.7)
  for levels in ([0, 1, 2, 3], [4, 5, 6, 7]):
    found = degrade(flat, np.array(levels, np.int32), LEVELS)
    np.testing.assert_allclose(found, 0.7, rtol=1e-6)
  assert degrade._cache_size() == 1


def test_levels_outside_are_seen(degrade):
  depth = np.ones((4, 2, 12, 20, 3), np.float32)
  found = np.asarray(degrade(depth, np.array([-1, 8, 7, 0], np.int32), LEVELS))
  assert np.isnan(found[:2]).all() and np.isfinite(found[2:]).all()


def test_level_0_keeps_every_bit_of_any_dtype():
  depth = jnp.linspace(-3, 7, 64).reshape(1, 1, 8, 8, 1).astype(jnp.bfloat16)
  found = blur_pyramid.degrade(depth, jnp.zeros(1, jnp.int32), 2)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, depth)


def test_bad_input():
  with pytest.raises(ValueError, match="7 levels on 1x8"):
    blur_pyramid.maps(1, 8, 7)
  with pytest.raises(ValueError, match="0 levels"):
    blur_pyramid.maps(8, 8, 0)
  with pytest.raises(AssertionError):
    shape = jax.ShapeDtypeStruct((1, 1, 8, 8, 1), jnp.uint8)
    level = jax.ShapeDtypeStruct((1,), jnp.int32)
    jax.eval_shape(lambda d, t: blur_pyramid.degrade(d, t, 2), shape, level)
