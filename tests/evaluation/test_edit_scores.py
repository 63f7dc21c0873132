# SPDX-License-Identifier: Apache-2.0
"""True clips score what they must, spoiled ones less; directions on made-up curves."""

import numpy as np
import pytest

from lamd_jax.data import procedural
from lamd_jax.evaluation import edit_scores

CLIPS = 10


@pytest.fixture(scope="module")
def world():
  """Clips, true masks [N,T,H,W] and the cones' colours and materials [N,2]."""
  made = procedural.world("cater", "v1")
  samples = [made.sample("test", i, frames=4, size=64) for i in range(CLIPS)]
  cones = np.stack([s.state["attributes"][1, 2:] for s in samples])
  instance = np.stack([s.instance[..., 0] for s in samples])
  return np.stack([s.video for s in samples]), instance, cones


@pytest.fixture(scope="module")
def fitted(world):
  return edit_scores.fit_material(world[0], world[2])


def _blurred(clips):
  """Means of 4x4 pixels, as coarse as the demo's latents."""
  n, t, h, w, _ = clips.shape
  small = clips.reshape(n, t, h // 4, 4, w // 4, 4, 3).mean((3, 5))
  return small.repeat(4, 2).repeat(4, 3).astype(np.uint8)


def _embeddings(clips):
  return np.random.default_rng(0).normal(size=(*clips.shape[:2], 6))


def test_true_clips_are_read_nearly_as_they_are(world, fitted):
  clips, instance, cones = world
  wanted = edit_scores.Wanted(None, instance, cones)
  found = edit_scores.score(clips, _embeddings(clips), wanted, fitted)
  assert found.colour.all()
  assert found.mask_iou.min() > 0.7 and found.found.mean() > 0.95
  assert np.nanmean(found.position_error) < 0.15  # units: a pixel is about 0.1
  assert found.material.mean() > 0.5  # at 64 pixels a highlight is a pixel or two
  # An edit that shows another clip's objects scores as a floor should.
  other = np.roll(np.arange(CLIPS), 1)
  wanted = edit_scores.Wanted(None, instance[other], cones[other])
  floor = edit_scores.score(clips, _embeddings(clips), wanted, fitted)
  assert floor.mask_iou.mean() < 0.2 and np.nanmean(floor.position_error) > 1
  assert floor.colour.mean() == np.mean(cones[:, 0] == cones[other, 0])


def test_colour_survives_a_blur_that_blends_objects_into_the_floor(world):
  clips, _, cones = world
  seen = [edit_scores.look(clip).colour for clip in _blurred(clips)]
  assert np.mean(seen == cones[:, 0]) >= 0.8


def test_an_empty_floor_shows_nothing():
  seen = edit_scores.look(np.full((2, 64, 64, 3), 200, np.uint8))
  assert seen.colour == -1 and not seen.mask.any() and np.isnan(seen.centre).all()
  by = edit_scores.Discriminant(np.zeros((9, 4)), np.ones(4), 1.0)
  assert edit_scores.material(seen, by) == -1  # no material, hence never the right one


def test_mask_iou_by_hand():
  a = np.zeros((2, 4, 4), bool)
  b = a.copy()
  a[0, 0, :3] = b[0, 0, 1:] = True  # 2 of 4; the second frame shows nothing and is left out
  assert edit_scores.mask_iou(a, b) == 0.5
  assert np.isnan(edit_scores.mask_iou(a[1:], b[1:]))


def test_positions_are_in_units_and_what_is_missed_is_counted():
  true = np.full((1, 2, 2), 32.0)
  assert edit_scores.positions(true, true, 64) == (0, 1)
  seen = true.copy()
  seen[0, 0] = np.nan
  assert edit_scores.positions(seen, true, 64) == (0, 0.5)
  assert np.isnan(edit_scores.positions(seen * np.nan, true, 64)[0])
  # At the picture's middle the camera, 10.7 units off, sees 2/(64 x 2.1875) of that wide.
  beside = true + [1, 0]
  wide = edit_scores.positions(beside, true, 64)[0]
  assert wide == pytest.approx(10.7 * 2 / (64 * 2.1875), rel=0.1)


def test_true_flow_explains_a_moving_square():
  instance = np.zeros((3, 16, 16), np.uint8)
  for t in range(3):
    instance[t, 4:8, 2 + 3 * t : 6 + 3 * t] = 1
  flow = edit_scores.true_flow(instance)
  assert flow.shape == (2, 16, 16, 2)
  np.testing.assert_array_equal(flow[0, 5, 3], [3, 0])
  assert not flow[instance[:-1] == 0].any()


def test_what_is_not_known_is_not_scored(world):
  clips = world[0][:3]
  found = edit_scores.score(clips, _embeddings(clips), edit_scores.Wanted(), None)
  draws = np.zeros((4, 3), int)
  summary = edit_scores.summary(found, draws)
  known = {name for name, score in summary.items() if score["mean"] is not None}
  assert known == {"frame_consistency", "motion"}


def test_unrelated_neighbours_are_of_two_clips():
  embeddings = np.arange(3)[:, None, None] * np.ones((3, 4, 1))
  mixed = edit_scores.unrelated(embeddings, np.array([1, 2, 0]))
  np.testing.assert_array_equal(mixed[..., 0], [[0, 1, 0, 1], [1, 2, 1, 2], [2, 0, 2, 0]])


def test_directions_are_held_by_interval_and_by_order():
  generator = np.random.default_rng(0)
  draws = generator.integers(0, 50, (300, 50))
  clip = generator.normal(size=50)  # large differences between clips cancel
  noise = lambda: 0.01 * generator.normal(size=50)
  rising = [clip + step + noise() for step in (0, 0.1, 0.2)]
  found = edit_scores.direction(rising, True, draws)
  assert found["by_interval"] and found["by_order"]
  assert found["change"]["mean"] == pytest.approx(0.2, abs=0.01)
  assert not edit_scores.direction(rising, False, draws)["by_interval"]
  found = edit_scores.direction(rising[::-1], False, draws)
  assert found["by_interval"] and found["by_order"]
  bent = [rising[0], rising[2], rising[1]]
  found = edit_scores.direction(bent, True, draws)
  assert found["by_interval"] and not found["by_order"]
  level = [np.zeros(50)] * 3
  found = edit_scores.direction(level, True, draws)
  assert not found["by_interval"] and not found["by_order"]
  nothing = [np.full(50, np.nan)] * 3
  assert edit_scores.direction(nothing, True, draws)["by_interval"] is None
