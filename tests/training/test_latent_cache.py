# SPDX-License-Identifier: Apache-2.0
"""Caches hold what encode gives, survive a stop, and are visited in a fixed order."""

from __future__ import annotations

import errno
import os
import re
import sys

import numpy as np
import processes
import pytest
import toy_latents
import toy_stage

from lamd_jax.errors import ConfigError
from lamd_jax.ops import axes
from lamd_jax.training import distributed
from lamd_jax.training import latent_cache
from lamd_jax.training import latent_fill
from lamd_jax.training import preemption

COUNT = 20


def _batches(hook=None):
  """Clips of the table from any first clip on, four at a time."""

  def make(first):
    loader = toy_stage.ToyLoader(4, hook)
    loader.set_state({"next": first})
    return iter(loader)

  return make


def _build(folder, batches=None, stop=None, count=COUNT):
  return latent_cache.build(
    toy_stage.ToyStage(),
    toy_stage.FROZEN,
    batches or _batches(),
    count,
    4,
    folder,
    stop or preemption.Stop(),
  )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  return _build(tmp_path_factory.mktemp("cache") / "key")


def test_rows_are_the_encoded_clips(dataset):
  assert len(dataset) == COUNT
  for i in (0, 7, COUNT - 1):
    np.testing.assert_array_equal(dataset.mean[i], toy_stage.clip(i) * np.float32(0.25))
  np.testing.assert_array_equal(dataset.log_variance, -1)
  np.testing.assert_array_equal(dataset.label, np.arange(COUNT) % 3)


def test_a_last_batch_that_is_too_long_is_cut(tmp_path):
  dataset = _build(tmp_path / "key", count=6)
  assert len(dataset) == 6
  np.testing.assert_array_equal(dataset.mean[5], toy_stage.clip(5) * np.float32(0.25))


def test_a_stopped_build_goes_on_where_it_was(dataset, tmp_path):
  stop = preemption.Stop()
  hook = lambda batch: stop.request() if batch == 2 else None
  with pytest.raises(preemption.Preempted):
    _build(tmp_path / "key", _batches(hook), stop)
  assert latent_cache.load(tmp_path / "key") is None
  seen = []
  resumed = _build(tmp_path / "key", _batches(seen.append))
  assert seen == [3, 4]  # it was asked in batch 2, which it finished
  np.testing.assert_array_equal(resumed.mean, dataset.mean)
  np.testing.assert_array_equal(resumed.label, dataset.label)


def test_a_complete_cache_is_opened_without_encoding(tmp_path):
  _build(tmp_path / "key")

  def never(first):
    raise AssertionError("encoded again")

  assert len(_build(tmp_path / "key", never)) == COUNT


def test_key_depends_on_every_input():
  def weights(value, name="shift"):
    return {"earlier": {"params": {name: np.float32(value)}, "extras": {}}}

  keys = {
    latent_cache.key(weights(1.0), {"size": 8}),
    latent_cache.key(weights(np.nextafter(np.float32(1), 2)), {"size": 8}),
    latent_cache.key(weights(1.0, "scale"), {"size": 8}),
    latent_cache.key(weights(1.0), {"size": 9}),
  }
  assert len(keys) == 4
  assert latent_cache.key(weights(1.0), {"size": 8}) in keys


def _take(loader, count):
  return [next(loader) for _ in range(count)]


def test_order_is_a_function_of_seed_and_step(dataset):
  make = lambda seed=0, **host: latent_cache.LatentLoader(
    dataset, fingerprint="f", batch=4, seed=seed, **host
  )
  full = _take(make(), 10)
  resumed = make()
  resumed.set_state({"next_index": 12})
  for expected, found in zip(full[3:], _take(resumed, 7), strict=True):
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.index, expected.index)
  assert resumed.get_state() == {"next_index": 40, "fingerprint": "f"}
  # Two hosts together see the rows that one sees.
  hosts = [make(process_index=i, process_count=2) for i in range(2)]
  for expected in full:
    parts = [next(host) for host in hosts]
    stacked = np.stack([part.mean for part in parts], 1).reshape(expected.mean.shape)
    np.testing.assert_array_equal(stacked, expected.mean)
  other = _take(make(seed=1), 1)[0]
  assert not np.array_equal(other.mean, full[0].mean)


def test_each_epoch_visits_each_clip_once_in_another_order(dataset):
  loader = latent_cache.LatentLoader(dataset, fingerprint="f", batch=4, seed=0)
  orders = []
  for _ in range(2):
    batches = _take(loader, COUNT // 4)
    means = np.concatenate([b.mean for b in batches])
    flat = means.reshape(COUNT, -1)
    table = np.asarray(dataset.mean).reshape(COUNT, -1)
    order = [int(np.flatnonzero((table == row).all(1))[0]) for row in flat]
    assert sorted(order) == list(range(COUNT))
    orders.append(order)
  assert orders[0] != orders[1]


def test_two_processes_fill_it_together(tmp_path):
  """Twice they stop in between, each time both leave; the third time they finish."""
  count, taken = toy_latents.COUNT, []
  for event, expected, heard in (
    ("fail", [2, 3], "process 1 failed, and says why"),
    ("term", [75, 75], "stopped; what is done is kept"),
    ("none", [0, 0], f"complete, {count} clips"),
  ):
    started = processes.start(toy_latents, 2, tmp_path / "key", event)
    codes, outputs = processes.finish(started)
    assert codes == expected and heard in outputs[0], outputs
    taken += [int(re.search(r"took (\d+) batches", text)[1]) for text in outputs]
  # Each has its share, and nothing is encoded twice but the batch that failed.
  assert min(taken) > 2 and sum(taken) == -(-count // toy_latents.BATCH) + 1
  together = latent_cache.load(tmp_path / "key")
  alone = _build(tmp_path / "alone", count=count)
  for mine, theirs in zip(alone, together, strict=True):
    np.testing.assert_array_equal(mine, theirs)


def test_a_process_that_does_not_see_the_folder_says_so_at_once(tmp_path):
  started = processes.start(toy_latents, 2, tmp_path / "key", "apart")
  codes, (first, second) = processes.finish(started)
  assert codes == [2, 2]
  assert "process 1 does not see: name a --workdir that all hosts share" in second
  assert "took 1 batches" in first and "took 0 batches" in second


def test_layers_know_into_how_many_parts_rows_are_cut():
  stage, parts = toy_stage.ToyStage(), []
  encode = stage.encode
  stage.encode = lambda *x: parts.append(axes.row_parts()) or encode(*x)
  run = latent_fill.encoder(stage, toy_stage.FROZEN)
  for count in (8, 4):  # on 8 devices
    found = run(next(iter(toy_stage.ToyLoader(count))))
    expected = [toy_stage.clip(i) * np.float32(0.25) for i in range(count)]
    np.testing.assert_array_equal(found["mean"], expected)
  assert set(parts) == {8}


def test_what_is_not_all_there_is_not_complete(tmp_path, monkeypatch):
  """Hosts with disks of their own, whose ranks were exchanged by a second start."""
  monkeypatch.setattr(distributed, "_SETTLED_SECONDS", 0.0)
  monkeypatch.setattr(latent_fill, "_encode", lambda *arguments: None)
  with pytest.raises(ConfigError, match="sees 20%: name a --workdir that all hosts"):
    _build(tmp_path / "key")
  assert latent_cache.load(tmp_path / "key") is None


def test_a_record_that_was_cut_off_counts_for_nothing(tmp_path, dataset):
  partial = tmp_path / "key.partial"
  partial.mkdir()
  (partial / "from-0.json").write_text("")
  np.testing.assert_array_equal(_build(tmp_path / "key").mean, dataset.mean)


def test_a_bucket_is_refused():
  with pytest.raises(ConfigError, match="not a local folder"):
    _build("gs://bucket/cache")


def test_too_few_clips_are_named(tmp_path):
  batches = lambda first: iter(_take(_batches()(first), 2))
  with pytest.raises(ConfigError, match="ended at 8 of 20"):
    _build(tmp_path / "key", batches)


@pytest.mark.skipif(sys.platform != "linux", reason="the call is Linux's")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
  # Without the room taken first, a write to mapped memory ends the process (SIGBUS).
  def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "posix_fallocate", full)
  with pytest.raises(ConfigError, match="no room for .* GiB .No space left") as error:
    _build(tmp_path / "cache")
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="the call is Linux's")
def test_room_is_taken_before_anything_is_encoded(tmp_path):
  fields = {"mean": np.ones((1, 256, 1024), np.float32)}
  latent_fill.create(tmp_path, fields, 4)
  stat = (tmp_path / "mean.npy").stat()
  assert 512 * stat.st_blocks >= stat.st_size > 4 * 2**20
