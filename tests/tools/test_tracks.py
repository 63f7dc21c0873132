# SPDX-License-Identifier: Apache-2.0
"""True tracks: points stay on what they lie on; FVMD tells true motion from none."""

import json

import numpy as np
import pytest

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import camera
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.evaluation import fvmd
from lamd_jax.evaluation import scoring
from lamd_jax.tools import score
from lamd_jax.tools import tracks

FLOOR = "floor: disjoint halves, so at half the number"


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_points_stay_on_their_objects(mode):
  world, size, grid = Cater(mode), 64, 32
  moved = seen = 0
  for index in range(6):
    found = world.tracks("test", index, 6, grid, size)
    sample = world.sample("test", index, 6, size)
    at = lambda t: np.floor(found[t]).astype(int).clip(0, size - 1)
    owner = lambda t: sample.instance[t, at(t)[..., 1], at(t)[..., 0], 0]
    start = owner(0)
    np.testing.assert_array_equal(found[:, start == 0], found[[0] * 6][:, start == 0])
    for k in np.flatnonzero(sample.state["action"] == 1):  # slides: its face stays ours
      mine = start == k + 1
      way = np.linalg.norm(found[-1, mine] - found[0, mine], axis=-1)
      moved += (way > 1).sum()
      hit = owner(5)[mine] == k + 1
      seen += hit.sum()
      # Nothing was hidden that is now seen, and pixels at its edge may be its
      # neighbours'.
      assert not mine.any() or hit.mean() > 0.7 or (sample.state["visible"][5, k] == 0)
  assert moved > 0 and seen > 0


def test_a_turned_object_turns_by_rodrigues_formula():
  world, size, grid = Cater("v1"), 64, 64
  index = next(
    i for i in range(40) if world._plan("test", i, None)[1].action[0] == actions.ROTATE
  )
  sample = world.sample("test", index, 2, size)  # the first and the last pose
  found = world.tracks("test", index, 2, grid, size)
  mine = sample.instance[0, ..., 0] == 1
  rows, columns = np.nonzero(mine)
  pixels = np.stack([columns, rows], -1) + 0.5
  np.testing.assert_array_equal(found[0, mine], pixels)
  # Where the pictures' rays meet the snitch, by its depth.
  across, upward = (2 * pixels / size - 1).T * [[1], [-1]] / camera.FOCAL
  ray = np.stack([across, upward, np.ones_like(across)], -1) @ camera.AXES
  centre = sample.state["position"][0, 0]
  offset = camera.CENTRE + sample.depth[0, mine] * ray - centre
  yaw, tilt = sample.state["rotation"][1, 0]
  axis = np.array([-np.sin(yaw), np.cos(yaw), 0])
  assert tilt == pytest.approx(np.pi / 2)
  turned = np.cross(axis, offset) + np.outer(offset @ axis, axis)  # by 90 degrees
  expected, _ = camera.project(centre + turned, size)
  np.testing.assert_allclose(found[1, mine], expected, atol=1e-3)
  assert np.abs(expected - pixels).max() > 1


@pytest.fixture(scope="module")
def real():
  """Pixels are rendered at 64 and scaled: a quarter of the side, for time's sake."""
  world = Cater("v1")
  return np.stack([4 * world.tracks("test", i, 16, 20, 64) for i in range(64)])


def test_the_world_lies_at_its_floor_and_other_motion_above(real, tmp_path):
  for name, part in {"real": real[:32], "fake": real[32:]}.items():
    np.savez(tmp_path / f"{name}.npz", part)
  out = tmp_path / "out.json"
  assert score.main([
    "--protocol=fvmd_true", f"--real={tmp_path / 'real.npz'}", f"--out={out}",
    f"--fake={tmp_path / 'fake.npz'}", "--resamples=0",
  ]) == 0  # fmt: skip
  scores = json.loads(out.read_text())["scores"]
  value = scores["fakes"][0]["value"]
  assert value < scores[FLOOR][0]["value"]  # which is at half the number
  far = lambda change: fvmd.distance(real[:32], change(real[32:]), False)
  assert value == pytest.approx(far(lambda same: same))
  assert far(scoring.still_tracks) > 1.2 * value
  assert far(scoring.shuffle_tracks) > 1.5 * value


def test_the_command_writes_what_the_protocol_reads(tmp_path, capsys):
  out = tmp_path / "tracks.npz"
  assert tracks.main([f"--out={out}", "--clips=2", "--first=3"]) == 0
  found = np.load(out)["arr_0"]
  assert found.shape == (2, 16, 20, 20, 2) and found.dtype == np.float32
  np.testing.assert_array_equal(found[1], Cater("v1").tracks("test", 4, 16, 20, 256))
  assert fvmd.features(found, released=False).shape == (2, 1024)
  assert 0 < found[:, 0].min() and found[:, 0].max() < 256
  capsys.readouterr()


@pytest.mark.parametrize(
  "changes, message",
  [
    (["--clips=1"], "--clips=1: must lie between 2 and"),
    (["--frames=15"], "--frames=15: must lie between 16 and"),
    (["--out=a.npy"], "must end in .npz"),
  ],
)
def test_wrong_calls_are_one_line(tmp_path, capsys, changes, message):
  assert tracks.main([f"--out={tmp_path / 'a.npz'}", *changes]) == 2
  error = capsys.readouterr().err.strip()
  assert message in error and "\n" not in error and not list(tmp_path.iterdir())
