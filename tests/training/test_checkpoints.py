# SPDX-License-Identifier: Apache-2.0
"""Damage is found, older checkpoints step in, retention and refusals hold."""

from __future__ import annotations

import json
import random

from etils import epath
import jax
import numpy as np
import pytest
import toy_stage

from lamd_jax.training import checkpoints
from lamd_jax.training import manifest
from lamd_jax.training import sharding
from lamd_jax.training import state as state_lib


@pytest.fixture(scope="module")
def placed():
  """The toy's state on one device, with the shapes it is restored onto."""
  mesh = sharding.make_mesh("dp", jax.devices()[:1])
  host = state_lib.create(toy_stage.ToyStage(), toy_stage.config().optim.toy, 0)
  shardings = sharding.state_shardings(host, mesh)
  return sharding.place(host, shardings), state_lib.abstract(host, shardings)


def _store(folder, **settings):
  return checkpoints.Store(
    folder, **{**dict(keep=3, keep_every=0, verify="full"), **settings}
  )


def _at(state, step):
  """The state at `step`, its bias set so that checkpoints differ."""
  device = lambda x, like: jax.device_put(x, like.sharding)
  generator = dict(state.params["generator"])
  second = dict(generator["second"])
  marked = np.full(second["bias"].shape, step, np.float32)
  second["bias"] = device(marked, second["bias"])
  params = {**state.params, "generator": {**generator, "second": second}}
  return state._replace(step=device(np.int32(step), state.step), params=params)


def _save(folder, state, steps, **settings):
  with _store(folder, **settings) as store:
    for step in steps:
      store.save(_at(state, step), {"next": step})
    store.wait()


def _flip(path, random_source):
  data = bytearray(path.read_bytes())
  bit = random_source.randrange(8 * len(data))
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(bytes(data))


def _files(folder):
  """All files that hold something a restore reads."""
  return [folder / name for name in manifest.files(folder)]


def test_retention_keeps_the_newest_and_the_multiples(placed, tmp_path):
  _save(tmp_path, placed[0], range(1, 8), keep=2, keep_every=3)
  assert checkpoints.steps(tmp_path) == [3, 6, 7]


def test_restore_gives_state_and_place_in_the_data(placed, tmp_path):
  state, like = placed
  _save(tmp_path, state, [4])
  with _store(tmp_path) as store:
    found, data = store.restore(like)
  assert data == {"next": 4}
  assert jax.tree.structure(found) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, found, _at(state, 4))


def test_nothing_to_restore(placed, tmp_path):
  with _store(tmp_path) as store:
    assert store.restore(placed[1]) is None


def test_a_damaged_checkpoint_is_set_aside_and_its_step_can_be_saved_again(
  placed, tmp_path
):
  state, like = placed
  _save(tmp_path, state, [1, 2])
  victim = max(_files(tmp_path / "checkpoints" / "2"), key=lambda p: p.stat().st_size)
  _flip(victim, random.Random(0))
  with _store(tmp_path) as store:
    found, data = store.restore(like)
    assert (int(found.step), data) == (1, {"next": 1})
    store.save(_at(state, 2), {"next": 2})
  assert checkpoints.steps(tmp_path) == [1, 2]
  assert (tmp_path / "corrupt" / "2").exists()


def test_all_damaged_is_an_error_and_not_a_fresh_start(placed, tmp_path):
  _save(tmp_path, placed[0], [1])
  (tmp_path / "checkpoints" / "1" / manifest.NAME).unlink()
  with pytest.raises(checkpoints.CheckpointError, match="all checkpoints.*steps 1"):
    _store(tmp_path)


def test_what_a_killed_save_left_is_removed(placed, tmp_path):
  _save(tmp_path, placed[0], [1])
  left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  left.mkdir()
  (left / "half").write_bytes(b"x")
  with _store(tmp_path):
    pass
  assert not left.exists()
  assert checkpoints.steps(tmp_path) == [1]


def test_every_flipped_bit_is_noticed(placed, tmp_path):
  """Orbax itself lets nine of ten through."""
  _save(tmp_path, placed[0], [1])
  folder = checkpoints._folder(tmp_path) / "1"
  random_source = random.Random(0)
  targets = [*_files(folder), folder / manifest.NAME]
  assert manifest.problems(folder, "full") == []
  for path in targets:
    whole = path.read_bytes()
    if not whole:
      continue
    for _ in range(3):
      _flip(path, random_source)
      assert manifest.problems(folder, "full"), path
      path.write_bytes(whole)
  assert manifest.problems(folder, "full") == []


def test_size_finds_truncation_only_and_off_finds_nothing(placed, tmp_path):
  _save(tmp_path, placed[0], [1])
  folder = checkpoints._folder(tmp_path) / "1"
  victim = max(_files(folder), key=lambda p: p.stat().length)
  whole = victim.read_bytes()
  victim.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
  assert manifest.problems(folder, "size") == []
  assert manifest.problems(folder, "full") != []
  victim.write_bytes(whole[:-1])
  assert "bytes, not" in manifest.problems(folder, "size")[0]
  assert manifest.problems(folder, "off") == []
  victim.unlink()
  assert "is missing" in manifest.problems(folder, "size")[0]


def test_weights_of_an_unfinished_run_fall_back_those_of_a_finished_one_do_not(
  placed, tmp_path
):
  _save(tmp_path, placed[0], [1, 2])
  (tmp_path / "checkpoints" / "2" / manifest.NAME).write_text("{}")
  weights = checkpoints.load_weights(tmp_path, "raw")
  assert weights["params"]["generator"]["second"]["bias"][0] == 1
  checkpoints.mark_finished(tmp_path, 2)
  with pytest.raises(checkpoints.CheckpointError, match="no whole checkpoint.* 2 "):
    checkpoints.load_weights(tmp_path)


def test_weights_do_not_ask_for_the_moments_hashes(placed, tmp_path):
  _save(tmp_path, placed[0], [1])
  folder = epath.Path(tmp_path) / "checkpoints" / "1"
  for item, message in (("optimizer", ""), ("ema_generator", "no whole checkpoint")):
    victim = max(_files(folder / item), key=lambda p: p.stat().length)
    whole = victim.read_bytes()
    victim.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    if not message:
      checkpoints.load_weights(tmp_path)
      continue
    checkpoints.load_weights(tmp_path, "raw")
    with pytest.raises(checkpoints.CheckpointError, match=message):
      checkpoints.load_weights(tmp_path)


def test_no_weights_yet(tmp_path):
  with pytest.raises(checkpoints.CheckpointError, match="no checkpoint"):
    checkpoints.load_weights(tmp_path)


def test_a_save_that_cannot_be_written_is_an_error(placed, tmp_path, monkeypatch):
  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(manifest, "write", full)
  with pytest.raises(OSError, match="No space left"), _store(tmp_path) as store:
    store.save(_at(placed[0], 1), {})
    store.wait()
  assert checkpoints.steps(tmp_path) == []


def test_what_orbax_says_of_a_full_disk_is_one_line(placed, tmp_path, monkeypatch):
  def full(*_, **__):
    raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")

  with _store(tmp_path) as store:
    monkeypatch.setattr(store._manager, "check_for_errors", full)
    store.save(_at(placed[0], 1), {})
    with pytest.raises(checkpoints.CheckpointError, match="step 1 was not saved") as info:
      store.wait()
  assert "\n" not in str(info.value) and "No space left" in str(info.value)


def test_a_bucket_stays_a_bucket():
  assert str(checkpoints._absolute("gs://bucket/run")) == "gs://bucket/run"
  assert checkpoints._absolute("run").is_absolute()


def test_a_folder_that_is_not_committed_is_no_step(placed, tmp_path, monkeypatch):
  # As in a bucket, where folders have their final name from the start.
  _save(tmp_path, placed[0], [1, 2])
  class Left:
    def get(self):
      return epath.Path(tmp_path) / "checkpoints" / "2"

  monkeypatch.setattr(checkpoints.ocp.utils, "tmp_checkpoints", lambda _: [Left()])
  assert checkpoints.steps(tmp_path) == [1]


def test_older_steps_are_not_saved_silently(placed, tmp_path):
  with _store(tmp_path) as store:
    store.save(_at(placed[0], 5), {})
    with pytest.raises(checkpoints.CheckpointError, match="step 3 was not saved"):
      store.save(_at(placed[0], 3), {})


def test_a_marker_is_whole_or_not_there(tmp_path, monkeypatch):
  def full(self, *arguments, **keywords):
    open(self, "w").close()  # what a full disk leaves: the name without the text
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(type(epath.Path(tmp_path)), "write_text", full)
    with pytest.raises(OSError, match="No space"):
      checkpoints.mark_finished(tmp_path, 12)
  assert not checkpoints.finished(tmp_path)
  (tmp_path / checkpoints.FINISHED).write_text("")
  with pytest.raises(checkpoints.CheckpointError, match="damaged .* remove it"):
    checkpoints.finished_step(tmp_path)


def test_marker(tmp_path):
  assert not checkpoints.finished(tmp_path)
  checkpoints.mark_finished(tmp_path, 12)
  assert checkpoints.finished(tmp_path)
  assert checkpoints.finished_step(tmp_path) == 12
  assert json.loads((tmp_path / "finished.json").read_text()) == {"step": 12}


def test_the_guard_of_the_loop_lets_arrays_be_saved(placed, tmp_path):
  """On a CPU the guard sees only what has to be copied to be read: four-bit numbers."""
  packed = jax.device_put(np.arange(8).astype("int4"))
  state = placed[0]._replace(extras={"packed": packed})
  with jax.transfer_guard("disallow"), _store(tmp_path) as store:
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed"):
      np.asarray(packed)
    store.save(state, {})
    store.wait()
  assert checkpoints.steps(tmp_path) == [0]
