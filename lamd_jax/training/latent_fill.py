# SPDX-License-Identifier: Apache-2.0
"""Fills a latent cache: every process encodes its share of the clips, on its own devices.

Until it is complete a cache lies in KEY.partial/, its arrays at their full size and
from-ROW.json {"until"}: a run of rows, from ROW on, that are done. Whoever goes on, in
whatever number of processes, does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import errno
import json
import os
import pathlib
import shutil
import sys
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from lamd_jax import types
from lamd_jax.errors import ConfigError
from lamd_jax.training import distributed
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training.stage import Frozen, Stage

COMPLETE = "complete.json"
Fields = dict[str, np.ndarray]  # rows of what is stored, by name


def fill(
  stage: Stage,
  frozen: Frozen,
  batches: Callable[[int], Iterator[types.VideoBatch]],
  count: int,
  batch: int,
  folder: pathlib.Path,
  stop: preemption.Stop,
) -> None:
  """Makes the cache `folder`, or completes it; see `latent_cache.build`.

  Every process calls it; where one fails, all raise.
  """
  rows = _Rows(encoder(stage, frozen), batches, count, batch)
  partial = folder.with_name(f"{folder.name}.partial")
  done = distributed.together(lambda: _begin(partial, rows), first=True)
  distributed.together(lambda: check_shared(partial))
  done = np.zeros(-(-count // batch), bool) if done is None else done
  done = np.asarray(multihost_utils.broadcast_one_to_all(done), bool)
  shares = np.array_split(np.flatnonzero(~done), jax.process_count())
  own = shares[jax.process_index()] * batch
  # The first share is the longest: as often they all ask each other whether to stop.
  distributed.together(lambda: _encode(partial, rows, own, len(shares[0]), stop))
  distributed.together(lambda: _finish(partial, folder, rows), first=True)


class _Rows:
  """What a cache holds, encoded a batch at a time, by its first row."""

  def __init__(
    self,
    encode: Callable[[types.VideoBatch], Fields],
    batches: Callable[[int], Iterator[types.VideoBatch]],
    count: int,
    batch: int,
  ):
    self.count, self.batch = count, batch
    self._encode, self._batches = encode, batches
    self._source: Iterator[types.VideoBatch] = iter(())
    self._next = -1

  def at(self, row: int) -> Fields:
    if row != self._next:
      self._source = self._batches(row)
    clips = next(self._source, None)
    if clips is None:
      raise ConfigError(f"latent cache: the clips ended at {row} of {self.count}")
    self._next = row + self.batch
    fields = self._encode(clips)
    return {name: x[: self.count - row] for name, x in fields.items()}


def _begin(partial: pathlib.Path, rows: _Rows) -> np.ndarray:
  """Makes arrays of the full size, unless some is done; returns which batches are."""
  if partial.exists() and (done := _done(partial, rows)).any():
    return done
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  fields = rows.at(0)
  create(partial, fields, rows.count)
  _write(partial, 0, fields)
  _mark(partial, 0, len(next(iter(fields.values()))))
  return _done(partial, rows)


def check_shared(folder: pathlib.Path) -> None:
  """Raises ConfigError where this process does not see what the first one made."""
  if not folder.exists():
    raise ConfigError(
      f"train.latent_cache: process 0 fills {folder}, which process"
      f" {jax.process_index()} does not see: name a --workdir that all hosts share, or"
      " say --config.train.latent_cache=false"
    )


def _done(partial: pathlib.Path, rows: _Rows) -> np.ndarray:
  """Which batches are done, [N] bool."""
  done = np.zeros(rows.count, bool)
  for path in partial.glob("from-*.json"):
    done[int(path.stem.removeprefix("from-")) : _read(path).get("until", 0)] = True
  return np.logical_and.reduceat(done, np.arange(0, rows.count, rows.batch))


def _encode(
  partial: pathlib.Path,
  rows: _Rows,
  firsts: Sequence[int],
  rounds: int,
  stop: preemption.Stop,
) -> None:
  """Encodes the batches that begin at `firsts`, in `rounds` that all processes take."""
  failure: Exception | None = None
  begun = until = -1
  for turn in range(rounds):
    if preemption.agreed(stop, turn):
      logging.warning("latent cache: stopped; what is done is kept")
      raise failure or preemption.Preempted
    if failure is not None or turn >= len(firsts):
      continue
    try:
      row = int(firsts[turn])
      fields = rows.at(row)
      _write(partial, row, fields)
      begun = begun if row == until else row
      until = row + len(next(iter(fields.values())))
      _mark(partial, begun, until)
    except Exception as error:  # until the others have heard of it, in the next exchange
      failure = error
      stop.request()
  if failure is not None:
    raise failure


def _write(partial: pathlib.Path, row: int, fields: Fields) -> None:
  """Puts rows where they belong.

  Not through a mapping, nor a file that can be read: processes on several hosts would
  write whole pages, with the other's rows as they were.
  """
  for name, values in fields.items():
    path = partial / f"{name}.npy"
    array = np.load(path, mmap_mode="r")
    with open(path, "wb", opener=lambda name, _: os.open(name, os.O_WRONLY)) as file:
      file.seek(array.offset + row * array[0].nbytes)
      file.write(np.ascontiguousarray(values, array.dtype).data)
      file.flush()
      os.fsync(file.fileno())


def _mark(partial: pathlib.Path, row: int, until: int) -> None:
  """After the arrays: what it says is done is on disk."""
  _replace(partial / f"from-{row}.json", {"until": until})


def _finish(partial: pathlib.Path, folder: pathlib.Path, rows: _Rows) -> None:
  """Raises ConfigError where rows are missing: their host wrote on a disk of its own."""
  if (seen := distributed.settled(lambda: _done(partial, rows).mean())) < 1:
    raise ConfigError(
      f"train.latent_cache: of {partial} this process sees {seen:.0%}: name a --workdir"
      " that all hosts share, or say --config.train.latent_cache=false"
    )
  _complete(partial, folder, rows.count)


def _complete(partial: pathlib.Path, folder: pathlib.Path, count: int) -> None:
  names = sorted(path.stem for path in partial.glob("*.npy"))
  _replace(partial / COMPLETE, {"count": count, "fields": names})
  for path in partial.glob("from-*.json"):
    path.unlink()
  partial.rename(folder)


def assemble(parts: Iterator[Fields], count: int, folder: pathlib.Path) -> None:
  """Makes a cache of fields that were encoded elsewhere, as `fill` would have.

  Args:
    parts: rows of every field, in order.
    count: rows in all.
    folder: the cache.
  """
  # A name of its own: training that was broken off may have left `.partial`.
  partial = folder.with_name(f"{folder.name}.assembled")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  done = 0
  for fields in parts:
    if not done:
      create(partial, fields, count)
    _write(partial, done, fields)
    done += len(next(iter(fields.values())))
  if done != count:
    raise ConfigError(f"latent cache: the parts hold {done} clips of {count}")
  _complete(partial, folder, count)


def encoder(
  stage: Stage, frozen: Frozen
) -> Callable[[types.VideoBatch], dict[str, np.ndarray]]:
  """Returns a function from a batch to the fields that are stored, by name.

  It runs over this process's devices, and encodes a clip alike in batches of one size.
  """
  mesh = sharding.rows_mesh(jax.local_devices())
  whole = sharding.replicated(mesh)
  # As nested dicts, which jax knows as pytrees whatever mapping came.
  plain = {name: dict(frozen[name]) for name in stage.encoded_by}
  weights = jax.device_put(plain, whole)
  run = jax.jit(stage.encode, out_shardings=whole)

  def encode(batch: types.VideoBatch) -> dict[str, np.ndarray]:
    rows = len(batch.index)
    # Filled up so that all devices have as many.
    more = np.minimum(np.arange(rows + -rows % sharding.batch_parts(mesh)), rows - 1)
    even = jax.tree.map(lambda x: x[more], batch)
    with jax.set_mesh(mesh):  # layers ask it into how many parts rows are cut
      placed = jax.device_put(even, sharding.batch_sharding(mesh))
      fields = jax.device_get(run(weights, placed))._asdict()
    del fields["index"]  # a visit's index is its place in the training order
    return {name: x[:rows] for name, x in fields.items() if x is not None}

  return encode


def create(folder: pathlib.Path, fields: Fields, count: int) -> None:
  """Makes the arrays of `count` rows like those of `fields`, and takes their room now.

  Better now than after hours of encoding. Raises ConfigError where a disk is full.
  """
  paths = []
  for name, x in fields.items():
    paths.append(folder / f"{name}.npy")
    shape = (count, *x.shape[1:])
    np.lib.format.open_memmap(paths[-1], "w+", x.dtype, shape)
  if sys.platform != "linux":  # others have no such call
    return
  size = sum(path.stat().st_size for path in paths)
  try:
    for path in paths:
      with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      return  # a file system that cannot promise anything
    shutil.rmtree(folder, ignore_errors=True)
    raise ConfigError(
      f"train.latent_cache: {folder.parent} has no room for {size / 2**30:.2f} GiB"
      f" ({error.strerror}); make room, lower train.latent_windows, or say"
      " --config.train.latent_cache=false"
    ) from error


def _replace(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  partial = path.with_suffix(".part")
  with partial.open("w", encoding="utf-8") as file:
    file.write(json.dumps(record))
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def _read(path: pathlib.Path) -> dict[str, Any]:
  """Returns the record; {} for one that is not whole."""
  try:
    return json.loads(path.read_text("utf-8"))
  except ValueError:
    return {}
