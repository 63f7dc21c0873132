# SPDX-License-Identifier: Apache-2.0
"""The tracker of cater clips against the world's own record of what happened."""

import numpy as np
import pytest

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.evaluation import cater_blobs
from lamd_jax.evaluation import cater_tracker
from lamd_jax.evaluation.cater_tracker import CONE, SNITCH


def test_components_are_eight_connected_and_sorted():
  mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1]], bool)
  parts = [sorted(map(tuple, p)) for p in cater_blobs.components(mask)]
  assert parts[0] == [(1, 3), (2, 3), (3, 3)]
  assert parts[1:] == [[(0, 0), (1, 1)], [(3, 0)]]


@pytest.fixture(scope="module")
def found():
  """Twenty true clips and what is seen in them."""
  samples = [Cater("v1").sample("val", i, 16, 64) for i in range(20)]
  return [(sample, cater_tracker.track(sample.video)) for sample in samples]


def test_actions_and_final_places_of_true_clips(found):
  right, error = [], []
  for sample, pair in found:
    for k, track in enumerate(pair):
      right.append(track.action == sample.state["action"][k])
      off = track.position[-1] - sample.state["position"][-1, k]
      error.append(np.linalg.norm(off[:2]))
  assert np.mean(right) >= 0.95
  assert np.median(error) < 0.04 and np.quantile(error, 0.9) < 0.1


def test_trajectories_lift_and_visibility_of_true_clips(found):
  error, lifted, visible = [], [], []
  for sample, pair in found:
    for k, track in enumerate(pair):
      true = sample.state["position"][:, k]
      if track.action == sample.state["action"][k]:
        error.append(np.linalg.norm(track.position - true, axis=1).mean())
        lifted.append(np.mean(track.lifted == (true[:, 2] > true[0, 2] + 0.1)))
      seen = sample.state["visible"][:, k]
      clear = (seen == 0) | (seen > 6)  # of a few pixels nothing can be asked
      visible.append(np.mean((track.visible == (seen > 0))[clear]))
  assert np.median(error) < 0.15 and np.mean(lifted) > 0.96
  assert np.mean(visible) > 0.95


def test_what_is_not_there_is_not_seen():
  for value in (0, 128, 255):
    for track in cater_tracker.track(np.full((4, 48, 48, 3), value, np.uint8)):
      assert not track.visible.any() and np.isnan(track.position).all()
      assert track.action == actions.STILL and track.cell == (0, 0)


def test_noise_and_single_frames_are_survived():
  noise = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8)
  assert len(cater_tracker.track(noise)) == 2
  frame = Cater("v1").sample("val", 3, 1, 64)
  pair = cater_tracker.track(frame.video)
  assert pair[SNITCH].action == pair[CONE].action == actions.STILL
  off = pair[CONE].position[0] - frame.state["position"][0, CONE]
  assert np.linalg.norm(off) < 0.1


def test_clips_of_another_shape_are_refused():
  with pytest.raises(ValueError, match=r"\(4, 32, 48, 3\)"):
    cater_tracker.track(np.zeros((4, 32, 48, 3), np.uint8))
