# SPDX-License-Identifier: Apache-2.0
"""Measures of disentanglement on clips and numbers whose answer is known."""

import numpy as np
import pytest

from lamd_jax.evaluation import caption_following
from lamd_jax.evaluation import cater_pairs
from lamd_jax.evaluation import disentanglement

BOOTSTRAP = {"resamples": 100, "seed": 0}


@pytest.fixture(scope="module")
def pairs():
  return cater_pairs.render_pairs(8, 16, 64, seed=0)


def test_pairs_share_places_and_differ_in_look_and_motion(pairs):
  np.testing.assert_array_equal(pairs.target[:, 0], pairs.content[:, 0])
  assert (pairs.motion_colour != pairs.content_colour).all()
  assert not np.allclose(pairs.motion_moved, pairs.content_moved)
  again = cater_pairs.render_pairs(1, 16, 64, seed=0)
  np.testing.assert_array_equal(again.target[0], pairs.target[0])
  other = cater_pairs.render_pairs(1, 16, 64, seed=1)
  assert (other.target[0] != pairs.target[0]).any()


def _order(count):
  return caption_following.derangement(np.random.default_rng(0), count)


def test_a_perfect_transfer_moves_as_the_donor_and_looks_as_the_image(pairs):
  moved = disentanglement.displacement(caption_following.track(pairs.target))
  found = disentanglement.motion(
    moved, pairs.motion_moved, pairs.content_moved, _order(8), **BOOTSTRAP
  )
  assert found["donor"]["correlation"].value > 0.97
  assert found["donor"]["cosine"].value > 0.95
  assert found["donor"]["error"].value < 0.3  # units; the tracker's own error
  assert found["donor"]["error"].interval[1] < found["own"]["error"].interval[0]
  assert found["donor"]["error"].interval[1] < found["shuffled"]["error"].interval[0]
  colours = disentanglement.cone_colours(pairs.target)
  found = disentanglement.appearance(
    colours, pairs.content_colour, pairs.motion_colour, **BOOTSTRAP
  )
  assert found["content"].value == 1 and found["donor"].value == 0
  looks = (pairs.target, pairs.motion)
  assert (disentanglement.nearer(pairs.target, *looks) == 1).all()
  assert (disentanglement.nearer(pairs.motion, *looks) == 0).all()


def test_a_decoder_that_ignores_the_motion_map_is_found_out(pairs):
  still = np.repeat(pairs.content[:, :1], 16, 1)
  moved = disentanglement.displacement(caption_following.track(still))
  found = disentanglement.motion(
    moved, pairs.motion_moved, pairs.content_moved, _order(8), **BOOTSTRAP
  )
  assert found["tracked"] > 0.9
  assert found["donor"]["cosine"].value == 0  # nothing moves
  assert abs(found["donor"]["correlation"].value) < 0.5
  assert found["donor"]["error"].value > 1


def test_agreement_by_hand():
  found = np.array([[[1.0, 0.0], [np.nan, 0.0]], [[0.0, 2.0], [0.1, 0.0]]])
  said = np.array([[[0.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
  asked = np.ones((2, 2), bool)
  got = disentanglement.agreement(found, said, asked, **BOOTSTRAP)
  # Crosswise, unseen, alike, and one that did not move.
  assert got["cosine"].value == pytest.approx((0 + 1 + 0) / 3)
  assert got["error"].value == pytest.approx((2**0.5 + 1 + 0.9) / 3)
  x, y = [1, 0, 0, 2, 0.1, 0], [0, 1, 0, 1, 1, 0]
  assert got["correlation"].value == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_intervals_hold_the_mean_and_shrink():
  draws = np.random.default_rng(1).normal(3, 1, 400)
  few = disentanglement.mean(draws[:25], 500, 0)
  many = disentanglement.mean(draws, 500, 0)
  width = lambda e: e.interval[1] - e.interval[0]
  # 2 x 1.96 standard errors of 25 and of 400 draws.
  assert width(few) == pytest.approx(3.92 / 5, rel=0.3)
  assert width(many) == pytest.approx(3.92 / 20, rel=0.3)
  assert many.interval[0] < 3 < many.interval[1]


def test_probes_read_what_is_there_and_nothing_else():
  generator = np.random.default_rng(0)
  moved = generator.normal(size=(400, 2))
  labels = generator.integers(0, 8, 400)
  mix = generator.normal(size=(2, 64))
  features = moved @ mix + generator.normal(0, 0.3, (400, 64))
  assert disentanglement.probe_values(features, moved, 300, **BOOTSTRAP).value > 0.9
  blind = disentanglement.probe_classes(features, labels, 300, **BOOTSTRAP)
  assert blind["accuracy"].interval[0] < 0.2  # chance is 1/8
  features[:, :8] += 3 * np.eye(8)[labels]
  seeing = disentanglement.probe_classes(features, labels, 300, **BOOTSTRAP)
  assert seeing["accuracy"].value > 0.9
  assert seeing["accuracy"].interval[0] > seeing["chance"].interval[1]
  noise = generator.normal(size=(400, 64))
  # No map is worse than saying the mean, but for what 300 clips leave to chance.
  assert abs(disentanglement.probe_values(noise, moved, 300, **BOOTSTRAP).value) < 0.1


def test_ridge_is_least_squares_where_there_is_no_noise():
  generator = np.random.default_rng(0)
  x, w = generator.normal(size=(60, 5)), generator.normal(size=(5, 3))
  said = disentanglement.ridge(x[:40], x[:40] @ w + 1, x[40:])
  np.testing.assert_allclose(said, x[40:] @ w + 1, atol=0.01)


def test_a_summary_holds_positions_and_pooled_moments():
  maps = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 1, 2, 2, 3)
  got = disentanglement.summary(maps)
  assert got.shape == (2, 4 * 3 + 3 + 3)
  np.testing.assert_allclose(got[0, 12:15], [4.5, 5.5, 6.5])
  np.testing.assert_allclose(got[0, 15], (0 + 9 + 36 + 81) / 4)
