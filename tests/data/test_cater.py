# SPDX-License-Identifier: Apache-2.0
"""The cater world: same bytes always; depth, masks and motion as its state says."""

import hashlib
import inspect

import numpy as np
import pytest

from lamd_jax.data import procedural
from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import camera
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.data.sources.procedural import WorldVideos

# SHA-256 of four 32x32 frames of (train, 5). Another hash is another data set: raise
# cater.VERSION and say so in the changelog.
GOLDEN = {
  "v1": "0f1b7e9c3ba0f9312a59309e71b257652eed09acf52edeebcf47d7ed905edab1",
  "v2": "ac11b52102a7cda7187298e2eecfc10233c352183466adb4f1c2d4a2c253c54a",
  "textured": "9c401d0cf9946e559f6ad8b651b2918c238115e503fbb3eac6bb249a6f6f6633",
  "unique_colors": "379ff321a47e9dd49b3881d0438afd80d695c6b3c79bef712569d0b8bd995190",
}


@pytest.mark.parametrize("mode", scenes.MODES)
def test_golden_bytes(mode):
  video = procedural.world("cater", mode).sample("train", 5, 4, 32).video
  assert hashlib.sha256(video.tobytes()).hexdigest() == GOLDEN[mode]


def test_bytes_do_not_depend_on_order_and_splits_differ():
  world = Cater("v2")
  first = world.sample("train", 3, 4, 32)
  others = [
    world.sample("train", 4, 4, 32), world.sample("test", 3, 4, 32),
    Cater("v2", seed=1).sample("train", 3, 4, 32),
  ]  # fmt: skip
  again = Cater("v2").sample("train", 3, 4, 32)
  for a, b in zip(first[:3], again[:3], strict=True):
    assert np.array_equal(a, b)
  assert first.caption == again.caption == world.caption("train", 3)
  for other in others:
    assert not np.array_equal(first.video[0], other.video[0])


def test_a_clip_spans_its_video_at_any_length():
  world = Cater("v1")
  whole, clip = (world.sample("train", 7, frames, 32) for frames in (41, 16))
  poses = np.floor(np.linspace(0, 40, 16)).astype(int)
  assert poses[0] == 0 and poses[-1] == 40
  assert np.array_equal(clip.video, whole.video[poses])
  assert np.array_equal(clip.depth, whole.depth[poses])
  with pytest.raises(ValueError, match="start=3"):
    world.sample("train", 7, 4, 32, start=3)


def test_the_source_reads_frames_of_whole_clips():
  videos = WorldVideos("cater", "v1", "train", 4, 8, False)
  whole = Cater("v1").sample("train", 2, 8, 24).video
  assert np.array_equal(videos.read(2, np.arange(8), 24), whole)
  assert np.array_equal(videos.read(2, np.array([3, 5, 5]), 24), whole[[3, 5, 5]])


def test_redrawn_motion_keeps_the_first_frame():
  world = Cater("v2")
  a, b = (world.sample("train", 0, 6, 32, motion_index=i) for i in (0, 9))
  assert np.array_equal(a.video[0], b.video[0])
  assert not np.array_equal(a.video[-1], b.video[-1])
  assert np.array_equal(a.state["attributes"], b.state["attributes"])


def test_known_projections():
  """Figures of the specification, at 128 pixels, by the reference's camera."""
  corners = [[x, y, 0] for x in (-3, 3) for y in (-3, 3)]
  pixels, _ = camera.project(np.array(corners), 128)
  low, high = pixels.min(0), pixels.max(0)
  np.testing.assert_allclose([*low, *high], [10, 45, 120, 104], atol=1.5)
  (foot, top), _ = camera.project(np.array([[0, 0, 0], [0, 0, 2.0]]), 128)
  np.testing.assert_allclose(top - foot, [0, -26], atol=1.5)
  back = camera.unproject(pixels, 0.0, 128)
  np.testing.assert_allclose(back, np.array(corners)[:, :2], atol=1e-9)


def _march(shape, r, point):
  """Whether points [...,3] in a shape's own coordinates are inside it."""
  x, y, z = np.moveaxis(point, -1, 0)
  across = np.hypot(x, y)
  return {
    shapes.CUBE: np.abs(point).max(-1) <= r,
    shapes.SPHERE: across**2 + z**2 <= r * r,
    shapes.CYLINDER: (across <= r) & (abs(z) <= r),
    shapes.CONE: (across <= (r - z) / 2) & (abs(z) <= r),
  }[shape]


@pytest.mark.parametrize("shape", range(4))
def test_intersections_agree_with_marching_and_normals_with_differences(shape):
  draw = np.random.default_rng(shape)
  origin = draw.normal(size=(300, 3))
  origin *= 3 / np.linalg.norm(origin, axis=1, keepdims=True)
  aim = draw.uniform(-0.7, 0.7, (300, 3))
  ray = aim - origin
  enter, leave = shapes.interval(shape, 0.7, origin.T, ray.T)
  steps = np.linspace(0, 2, 4001)
  inside = _march(shape, 0.7, origin[:, None] + steps[:, None] * ray[:, None])
  with np.errstate(invalid="ignore"):
    hit = enter <= leave
  seen = inside.any(1)
  assert (hit | ~seen).all() and seen.sum() > 60
  assert (leave - enter)[hit & ~seen].max(initial=0) < 1e-3  # only grazed
  np.testing.assert_allclose(enter[seen], steps[inside.argmax(1)][seen], atol=6e-4)
  at = origin[seen] + enter[seen, None] * ray[seen]
  normal = np.stack(shapes.normal(shape, 0.7, at.T), -1)
  np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
  assert (normal * ray[seen]).sum(1).max() < 1e-6  # faces the eye
  # One step inwards is inside, one outwards is not.
  assert _march(shape, 0.7, at - 1e-4 * normal).mean() > 0.98
  assert not _march(shape, 0.7, at + 1e-4 * normal).any()


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_depth_and_mask_are_those_of_the_nearest_object(mode):
  """Each pixel's centre ray is met with every object again, from the state alone."""
  for index in range(3):
    sample = Cater(mode).sample("val", index, 3, 32)
    direction = [d[..., camera.MIDDLE] for d in camera.rays(32).direction]
    for t in range(3):
      depth = [camera.rays(32).ground[..., camera.MIDDLE]]
      for k, r in enumerate(sample.state["radius"]):
        yaw, tilt = sample.state["rotation"][t, k].astype(float)
        c, s = np.cos([yaw, tilt]), np.sin([yaw, tilt])
        around_z = np.array([[c[0], -s[0], 0], [s[0], c[0], 0], [0, 0, 1]])
        around_y = np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]])
        turn = around_z @ around_y
        start = turn.T @ (camera.CENTRE - sample.state["position"][t, k])
        ray = np.tensordot(turn.T, np.stack(direction), 1)
        shape = sample.state["attributes"][k, 0]
        enter, leave = shapes.interval(shape, float(r), start, ray)
        with np.errstate(invalid="ignore"):
          depth.append(np.where(enter <= leave, enter, np.inf))
      nearest = np.min(depth, 0)
      # float32 states move silhouettes by less than one pixel in a thousand.
      same = np.argmin(depth, 0) == sample.instance[t, ..., 0]
      assert same.mean() > 0.999
      found = sample.depth[t, ..., 0]
      np.testing.assert_allclose(found[same], nearest[same], rtol=1e-4)
      counts = [(sample.instance[t] == k + 1).sum() for k in range(len(depth) - 1)]
      assert counts == sample.state["visible"][t].tolist()


def _plans(mode, count):
  return [Cater(mode)._plan("collisions", index, None) for index in range(count)]


@pytest.mark.parametrize(("mode", "count"), [("v1", 200), ("v2", 500)])
def test_nothing_collides_and_at_most_two_act(mode, count):
  seen = np.zeros(len(actions.NAMES), int)
  for scene, motion in _plans(mode, count):
    things = scene.things
    acting = [k for k in range(len(things)) if motion.action[k] not in (0, 5)]
    assert 1 <= len(acting) <= 2
    assert (mode == "v1" and len(things) == 2) or 3 <= len(things) <= 8
    seen += np.bincount(motion.action, minlength=len(seen))
    for k in range(len(things)):
      for j in range(k):
        if motion.partner[k] == j or motion.partner[j] == k:
          continue
        offset = motion.position[:, k] - motion.position[:, j]
        gap = np.linalg.norm(offset, axis=1) - things[k].radius - things[j].radius
        assert gap.min() >= scenes.GAP - 1e-9
    assert (np.abs(motion.position[..., :2]) < 3).all()
    for k in acting:
      start, end = motion.interval[k]
      assert 0 <= start <= 10 and 20 <= end - start <= 30
      kind, tilt = motion.action[k], motion.tilt[:, k]
      assert (kind == actions.ROTATE) == (tilt[-1] > 1.57)
      lift = motion.position[:, k, 2].max() - motion.position[0, k, 2]
      lifted = kind in (actions.PICK_PLACE, actions.CONTAIN)
      assert lift == pytest.approx(2 if lifted else 0)
      if kind == actions.ROTATE:
        assert things[k].shape not in (shapes.CONE, shapes.SPHERE)
      if kind == actions.CONTAIN:
        held = motion.partner[k]
        assert things[k].shape == shapes.CONE
        assert things[held].radius < things[k].radius
        assert motion.contained_by[end:, held].tolist() == [k] * (actions.POSES - end)
        assert (motion.contained_by[:end] == -1).all()
        np.testing.assert_allclose(
          motion.position[-1, k, :2], motion.position[-1, held, :2]
        )
  assert (seen[1:5] > count / 20).all()


def test_contained_objects_vanish_and_unique_colours_are_unique():
  hidden = 0
  for index in range(8):
    state = Cater("v1").sample("train", index, 2, 32).state
    held = state["contained_by"][-1] >= 0
    assert (state["visible"][-1][held] == 0).all()
    assert (state["visible"][0] > 0).all()
    hidden += held.sum()
    colours = Cater("unique_colors").sample("train", index, 1, 16).state["attributes"]
    assert len(set(colours[:, 2])) == len(colours)
  assert hidden


def test_shadows_fall_away_from_the_sun():
  """A sphere on the ground darkens the point where its centre's shadow falls."""
  size = 96
  for index in range(4):
    sample = Cater("v1").sample("train", index, 1, size)
    centre, light = sample.state["position"][0, 1], sample.state["light"]
    foot = centre - light * (centre[2] / light[2])
    (x, y), _ = camera.project(foot * [1, 1, 0], size)
    x, y = int(x), int(y)
    if sample.instance[0, y, x, 0] == 0:
      ground = np.median(sample.video[0].reshape(-1, 3), 0)
      assert sample.video[0, y, x].mean() < 0.6 * ground.mean()


def test_unknown_mode_is_named_and_worlds_have_one_signature():
  with pytest.raises(ValueError, match="'v9'.*unique_colors"):
    Cater("v9")
  for world in procedural.WORLDS.values():
    names = list(inspect.signature(world.sample).parameters)
    assert names[:6] == ["self", "split", "index", "frames", "size", "start"]


def test_action_classes_say_what_moves_how():
  """Of the caption alone: "still" has no sentence, targets do not count."""
  labelled = WorldVideos("cater", "v1", "train", 64, 8, True)
  assert WorldVideos("cater", "v1", "train", 4, 8, False).labels is None
  kinds = {"snitch": {}, "cone": {}}
  for video, label in enumerate(labelled.labels):
    caption = labelled.caption(video)
    for name, code in (("snitch", label // 4), ("cone", label % 4)):
      subject = f" the {name} is "
      said = caption.split(subject)[1].split(".")[0] if subject in caption else ""
      for word in ("sliding", "rotating", "containing", "placed"):
        said = word if word in said else said
      kinds[name].setdefault(int(code), set()).add(said)
  for name, codes in kinds.items():
    assert all(len(said) == 1 for said in codes.values()), (name, codes)
    assert codes[0] == {""} and len(codes) == 4
