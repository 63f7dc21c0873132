# SPDX-License-Identifier: Apache-2.0
"""The pushing world: same bytes always; pictures, contacts and words as its state says."""

import hashlib
import math
import re

import numpy as np
import pytest

from lamd_jax.data import pipeline, procedural
from lamd_jax.data.procedural import pushing
from lamd_jax.data.procedural.pushing import dynamics, render

# SHA-256 of four 32x32 frames of (train, 5). Another hash is another data set: raise
# pushing.VERSION and say so in the changelog.
GOLDEN = "cc0fa7811da1d401f8d0d659c49a513476a2c63d8dacb1915ffaebca1bfc7dc8"


@pytest.fixture(scope="module")
def world():
  return pushing.Pushing("push")


def test_golden_bytes():
  video = procedural.world("pushing", "push").sample("train", 5, 4, 32).video
  assert hashlib.sha256(video.tobytes()).hexdigest() == GOLDEN


def test_bytes_do_not_depend_on_order_and_splits_differ(world):
  first = world.sample("train", 3, 3, 32)
  others = [
    world.sample("train", 4, 3, 32), world.sample("test", 3, 3, 32),
    pushing.Pushing("push", seed=1).sample("train", 3, 3, 32),
  ]  # fmt: skip
  again = pushing.Pushing("push").sample("train", 3, 3, 32)
  for a, b in zip(first[:3], again[:3], strict=True):
    assert np.array_equal(a, b)
  for other in others:
    assert not np.array_equal(first.video[0], other.video[0])


def test_a_piece_is_that_piece_of_the_whole(world):
  whole, piece = world.sample("train", 7, 36, 32), world.sample("train", 7, 5, 32, 20)
  assert np.array_equal(piece.video, whole.video[20:25])
  assert np.array_equal(piece.depth, whole.depth[20:25])
  for name in ("actions", "gripper", "blocks", "contacts", "visible"):
    assert np.array_equal(piece.state[name], whole.state[name][20:25]), name
  assert piece.caption == whole.caption == world.caption("train", 7)


def test_redrawn_motion_keeps_the_first_frame(world):
  a, b = (world.sample("train", 0, 12, 32, motion_index=i) for i in (0, 9))
  assert np.array_equal(a.video[0], b.video[0])
  assert not np.array_equal(a.video[-1], b.video[-1])
  assert np.array_equal(a.state["attributes"], b.state["attributes"])


def test_known_projections():
  """Figures of the specification, at 64 pixels."""
  corners = np.array([[-1, -1, 0], [1, -1, 0], [-1, 1, 0], [1, 1, 0]])
  pixels, _ = render.project(corners, 64)
  np.testing.assert_allclose(pixels[:, 0], [6, 58, 15, 49], atol=0.5)
  step, _ = render.project(np.array([[0, 0, 0], [0.12, 0, 0]]), 64)
  assert step[1, 0] - step[0, 0] == pytest.approx(2.5, abs=0.1)


def _inside(part, points):
  """Whether points [...,3] lie in a part, by distance instead of by intersection."""
  offset = points - part.centre
  if part.shape < 0:
    length2 = (part.axis**2).sum()
    along = np.clip(offset @ part.axis / length2, 0, 1)
    return np.linalg.norm(offset - along[..., None] * part.axis, axis=-1) <= part.radius
  c, s = math.cos(part.yaw), math.sin(part.yaw)
  local = offset @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) / part.half
  if part.shape == render.shapes.CUBE:
    return (np.abs(local) <= 1).all(-1)
  return (np.hypot(local[..., 0], local[..., 1]) <= 1) & (np.abs(local[..., 2]) <= 1)


@pytest.mark.parametrize("index", range(3))
def test_depth_and_mask_are_those_of_the_nearest_part(world, index):
  """Every pixel's centre ray is walked through the scene, built from the state alone."""
  size, t = 24, 9
  sample = world.sample("val", index, 10, size)
  state = sample.state
  parts = [render.base_part(), *render.arm_parts(state["gripper"][t].astype(float))]
  for k, (shape, colour) in enumerate(state["attributes"]):
    pose = state["blocks"][t, k].astype(float)
    block = dynamics.Block(shape, colour, float(state["radius"][k]), *pose)
    parts.append(render.block_part(block, k + 2, pose))
  steps = np.arange(0.5, 6, 0.004)
  direction = np.stack([d[..., render.MIDDLE] for d in render.rays(size).direction], -1)
  points = render.CENTRE + steps[:, None, None, None] * direction
  first = [np.where(points[..., 2] <= 0, steps[:, None, None], np.inf).min(0)]
  for part in parts:
    first.append(np.where(_inside(part, points), steps[:, None, None], np.inf).min(0))
  owner = np.array([0, *(part.owner for part in parts)])[np.argmin(first, 0)]
  same = owner == sample.instance[t, ..., 0]
  assert same.mean() > 0.99  # the walk passes over what is thinner than a step
  off = np.min(first, 0) - sample.depth[t, ..., 0]
  assert off[same].min() > -1e-3 and off[same].max() < 0.005
  assert state["visible"][t].tolist() == [
    (sample.instance[t] == k + 2).sum() for k in range(len(state["radius"]))
  ]
  assert len(set(np.unique(owner)) & {0, 1}) == 2


@pytest.fixture(scope="module")
def plans(world):
  return [world._plan("physics", index, None, 30) for index in range(60)]


def test_nothing_moves_untouched_and_nothing_overlaps(plans):
  moved = by_block = 0
  for blocks, _, motion in plans:
    radii = np.array([block.radius for block in blocks])
    assert 2 <= len(blocks) <= 6 and len({b.colour for b in blocks}) == len(blocks)
    places = motion.blocks[..., :2]
    assert (np.abs(places) <= 1 - radii[:, None] + 1e-9).all()
    gaps = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    gaps -= radii[:, None] + radii
    assert gaps[:, ~np.eye(len(blocks), dtype=bool)].min() > -1e-3
    changed = (np.diff(motion.blocks, axis=0) != 0).any(-1)
    touched = motion.contacts[1:] > 0
    assert not (changed & ~touched).any() and not motion.contacts[0].any()
    # Only a low gripper pushes, and only what it reaches.
    z = motion.gripper[:, 2]
    low = np.minimum(z[1:], z[:-1]) < dynamics.REACH
    arm = motion.contacts[1:] == dynamics.BY_ARM
    assert not (arm & ~low[:, None]).any()
    far = np.linalg.norm(places[1:] - motion.gripper[1:, None, :2], axis=-1)
    assert (far - radii - dynamics.GRIPPER)[arm].max(initial=0) < 0.15
    moved += changed.any()
    by_block += (motion.contacts == dynamics.BY_BLOCK).any()
  assert moved > 30 and by_block > 2


def test_the_gripper_follows_its_actions(plans):
  for _, _, motion in plans:
    step, asked = np.diff(motion.gripper, axis=0), motion.actions[:-1]
    assert np.hypot(*asked[:, :2].T).max() < dynamics.STEP + 0.06
    free = (np.abs(motion.gripper[1:, :2]).max(1) < 0.9) & ~motion.contacts[1:].any(1)
    np.testing.assert_allclose(step[free, :2], asked[free, :2], atol=1e-12)
    np.testing.assert_allclose(step[:, 3], asked[:, 3], atol=1e-12)
    assert motion.gripper[:, 2].min() >= dynamics.LOW
    assert motion.gripper[:, 2].max() <= dynamics.HIGH


def test_a_push_by_hand():
  """p = .06 + .15 - .2, along the normal; off-centre it turns by .5 p offset / a^2."""
  arm = dynamics._Arm(0.0, 0.0)
  for x, turn in ((0.0, 0.0), (-0.12, 1.0), (0.12, -1.0)):
    pose, contacts = [x, math.sqrt(0.04 - x * x), 0.0], [0]
    dynamics._push(arm, 0.0, 0.03, [0.15], [pose], contacts)
    assert math.hypot(pose[0], pose[1]) == pytest.approx(0.21)
    # A block left of the way is pushed on its right side and turns left.
    assert pose[2] == pytest.approx(turn * 0.5 * 0.01 * 0.12 / 0.15**2)
    assert contacts == [dynamics.BY_ARM]


def test_at_the_rim_blocks_stop_and_the_arm_is_pushed_back():
  arm = dynamics._Arm(0.7, 0.0)
  arm.z = dynamics.LOW
  pose = [0.88, 0.0, 0.0]
  contacts = dynamics._move(arm, (0.12, 0.0, 0.0, 0.0), [0.1], [pose])
  assert pose[:2] == [0.9, 0.0] and contacts == [dynamics.BY_ARM]
  assert arm.x == pytest.approx(0.9 - 0.1 - dynamics.GRIPPER)


def test_of_two_blocks_the_farther_gives_way():
  arm = dynamics._Arm(-0.3, 0.0)
  near, far, contacts = [-0.1, 0.0, 0.0], [0.05, 0.0, 0.0], [0, 0]
  dynamics._part(arm, [0.1, 0.1], [near, far], contacts)
  assert near[0] == -0.1 and far[0] == pytest.approx(0.1)
  assert contacts == [dynamics.NO_CONTACT, dynamics.BY_BLOCK]


def test_captions_name_the_block_moved_most(world):
  grammar = re.compile(r"the arm pushes the (\w+) (box|cylinder) (\w+)\.")
  seen = set()
  for index in range(40):
    caption = world.caption("train", index)
    blocks, _, motion = world._plan("train", index, None, 30)
    way = motion.blocks[29, :, :2] - motion.blocks[0, :, :2]
    k = int(np.linalg.norm(way, axis=1).argmax())
    found = grammar.fullmatch(caption)
    assert (found is None) == (np.linalg.norm(way[k]) < 0.05)
    if found is None:
      assert caption == "the arm moves."
      continue
    assert found[1] == dynamics.COLOUR_NAMES[blocks[k].colour]
    assert found[2] == dynamics.SHAPES[blocks[k].shape]
    x, y = way[k] / np.abs(way[k]).max()
    sign = {"right": x, "left": -x, "away": y, "closer": -y}[found[3]]
    assert sign == 1
    seen.add(found[3])
  assert len(seen) == 4


def test_directions_are_those_of_the_picture():
  here, right, away = render.project(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]), 64)[0]
  assert right[0] > here[0] and away[1] < here[1]


def test_training_clips_start_anywhere_and_others_at_the_beginning(data_config):
  data_config.update(
    source="procedural", world="pushing", world_mode="push", num_videos=3, frames=4,
    size=16,
  )  # fmt: skip
  world = pushing.Pushing("push")
  test = pipeline.clips(data_config, "test", 3, 0)
  for i in range(3):
    assert np.array_equal(test[i], world.sample("test", i, 4, 16).video)
  videos = [world.sample("train", i, 30, 16).video for i in range(3)]
  starts = set()
  with pipeline.loader(data_config, split="train", batch=3, seed=0) as loader:
    for _ in range(4):
      for clip in next(loader).video:
        (found,) = {
          s for video in videos for s in range(27) if np.array_equal(video[s : s + 4], clip)
        }
        starts.add(found)
  assert len(starts) > 5 and pipeline.fps(data_config) == 8.0
  assert pipeline.captions(data_config, "test", 2, 0) == [
    world.caption("test", i) for i in range(2)
  ]


def test_unknown_mode_is_named():
  with pytest.raises(ValueError, match="'pull'.*push"):
    pushing.Pushing("pull")
