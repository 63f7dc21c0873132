# SPDX-License-Identifier: Apache-2.0
"""Latents computed once and kept: mean and log-variance of a fixed table of clips.

The folder of a cache is named by a hash of all that its numbers depend on, so a cache
of other weights or other clips is never read by mistake. What is stored is the
posterior; each visit of the training step draws from it afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
from typing import Any, NamedTuple

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from lamd_jax import types
from lamd_jax.errors import ConfigError
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training.stage import Frozen, Stage

_COMPLETE = "complete.json"
_PROGRESS = "progress.json"


def key(frozen: Frozen, description: Mapping[str, Any]) -> str:
  """Returns the name of a cache.

  Args:
    frozen: the weights that encode; every array of them enters, by path and bytes.
    description: JSON values that fix the clips: the data config, the hash of the
      index, the clip table or how it is drawn.
  """
  digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(_plain(frozen)):
    array = np.ascontiguousarray(leaf)
    name = f"{jax.tree_util.keystr(path)}:{array.dtype}:{array.shape}"
    digest.update(name.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:32]


class LatentDataset(NamedTuple):
  """A complete cache, memory-mapped; row i is clip i of the table."""

  mean: np.ndarray  # [N,t,h,w,c] float32
  log_variance: np.ndarray  # [N,t,h,w,c] float32
  label: np.ndarray | None  # [N] int32
  tokens: np.ndarray | None  # [N,L] int32, captions
  image: np.ndarray | None  # [N,1,H,W,3] uint8, first frames
  depth: np.ndarray | None  # [N,T,H,W,1] uint8
  embedding: np.ndarray | None  # [N,T,D] float32

  def __len__(self) -> int:
    return len(self.mean)


def load(directory: str | os.PathLike[str]) -> LatentDataset | None:
  """Opens a complete cache; None if there is none."""
  folder = _local(directory)
  if not (folder / _COMPLETE).exists():
    return None
  fields = json.loads((folder / _COMPLETE).read_text())["fields"]
  arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in fields}
  return LatentDataset(*(arrays.get(name) for name in LatentDataset._fields))


def build(
  stage: Stage,
  frozen: Frozen,
  batches: Callable[[int], Iterator[types.VideoBatch]],
  count: int,
  directory: str | os.PathLike[str],
  stop: preemption.Stop,
) -> LatentDataset:
  """Fills a cache, or opens it, or completes one that was broken off.

  Args:
    stage: its `encode` is what is stored.
    frozen: the weights that encode.
    batches: `batches(first)` yields the clips of the table in order from clip `first`
      on; with several processes, all clips on process 0.
    count: clips in the table.
    directory: a local folder whose last part is `key(...)`.
    stop: polled after each batch.

  Raises:
    preemption.Preempted: asked to stop; what is done is kept.
  """
  if jax.process_count() > 1:
    # The devices' first meeting has to be within ten minutes, filling takes longer.
    multihost_utils.sync_global_devices("latent cache")
  found, failure = load(directory), None
  if found is None and jax.process_index() == 0:
    try:
      _fill(stage, frozen, batches, count, _local(directory), stop)
    except Exception as error:  # raised below, once the others know
      failure = error
  found = load(directory)
  done, failed = found is not None, failure is not None
  if jax.process_count() > 1:  # also waits for process 0
    told = np.asarray([done, failed])
    done, failed = map(bool, multihost_utils.broadcast_one_to_all(told))
    found = load(directory)
  if failure is not None:
    raise failure
  if failed:
    raise ConfigError("train.latent_cache: process 0 failed to fill it, and says why")
  if not done:
    raise preemption.Preempted  # process 0 was asked to stop
  if found is None:
    raise ConfigError(
      f"train.latent_cache: process 0 has filled {directory}, which process"
      f" {jax.process_index()} does not see: name a --workdir that all hosts share, or"
      " say --config.train.latent_cache=false"
    )
  return found


def assemble(
  parts: Iterator[Mapping[str, np.ndarray]],
  count: int,
  directory: str | os.PathLike[str],
) -> None:
  """Makes a cache of fields that were encoded elsewhere, as `build` would have.

  Args:
    parts: rows of every field, in order.
    count: rows in all.
    directory: see `build`.
  """
  folder = _local(directory)
  # A name of its own: training that was broken off may have left `.partial`.
  partial = folder.with_name(f"{folder.name}.assembled")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  arrays: dict[str, np.ndarray] = {}
  done = 0
  for fields in parts:
    arrays = arrays or _open(partial, fields, count, resume=False)
    rows = len(next(iter(fields.values())))
    for name, values in fields.items():
      arrays[name][done : done + rows] = values
    done += rows
  if done != count:
    raise ConfigError(f"latent cache: the parts hold {done} clips of {count}")
  for array in arrays.values():
    array.flush()
  _replace(partial / _COMPLETE, {"count": count, "fields": sorted(arrays)})
  partial.rename(folder)


def _fill(
  stage: Stage,
  frozen: Frozen,
  batches: Callable[[int], Iterator[types.VideoBatch]],
  count: int,
  folder: pathlib.Path,
  stop: preemption.Stop,
) -> None:
  partial = folder.with_name(f"{folder.name}.partial")
  partial.mkdir(parents=True, exist_ok=True)
  progress = partial / _PROGRESS
  done = json.loads(progress.read_text())["done"] if progress.exists() else 0
  arrays: dict[str, np.ndarray] = {}
  encode = encoder(stage, frozen)
  for batch in batches(done) if done < count else ():
    if stop.requested():
      _stopped(done, count)
      return
    rows = min(len(batch.index), count - done)
    fields = {name: x[:rows] for name, x in encode(batch).items()}
    arrays = arrays or _open(partial, fields, count, resume=done > 0)
    for name, values in fields.items():
      arrays[name][done : done + rows] = values
      arrays[name].flush()
    done += rows
    # After the arrays: what it says is done is on disk.
    _replace(progress, {"done": done, "fields": sorted(arrays)})
    if done == count:
      break
  if done < count:
    raise ConfigError(f"latent cache: the clips ended at {done} of {count}")
  names = json.loads(progress.read_text())["fields"]
  _replace(partial / _COMPLETE, {"count": count, "fields": names})
  partial.rename(folder)


def encoder(
  stage: Stage, frozen: Frozen
) -> Callable[[types.VideoBatch], dict[str, np.ndarray]]:
  """Returns a function from a batch to the fields that are stored, by name.

  It runs over this process's devices, and encodes a clip alike in batches of one size.
  """
  mesh = sharding.rows_mesh(jax.local_devices())
  whole = sharding.replicated(mesh)
  weights = jax.device_put(_plain(frozen), whole)
  run = jax.jit(stage.encode, out_shardings=whole)

  def encode(batch: types.VideoBatch) -> dict[str, np.ndarray]:
    even = len(batch.index) % sharding.batch_parts(mesh) == 0
    placed = jax.device_put(batch, sharding.batch_sharding(mesh) if even else whole)
    # Layers ask the mesh into how many parts rows are cut.
    with jax.set_mesh(mesh) if even else contextlib.nullcontext():
      fields = jax.device_get(run(weights, placed))._asdict()
    del fields["index"]  # a visit's index is its place in the training order
    return {name: x for name, x in fields.items() if x is not None}

  return encode


def _open(
  folder: pathlib.Path, fields: Mapping[str, np.ndarray], count: int, resume: bool
) -> dict[str, np.ndarray]:
  mode = "r+" if resume else "w+"
  create = functools.partial(np.lib.format.open_memmap, mode=mode)
  arrays = {
    name: create(folder / f"{name}.npy", dtype=x.dtype, shape=(count, *x.shape[1:]))
    for name, x in fields.items()
  }
  if not resume:
    _reserve(folder, [folder / f"{name}.npy" for name in arrays])
  return arrays


def _reserve(folder: pathlib.Path, paths: Sequence[pathlib.Path]) -> None:
  """Takes the files' room on the disk now.

  Where a disk is full, writing to mapped memory does not fail: the system kills the
  process (SIGBUS), without a word.
  """
  if sys.platform != "linux":  # others have no such call
    return
  size = sum(path.stat().st_size for path in paths)
  try:
    for path in paths:
      with open(path, "r+b") as file:
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
  partial.write_text(json.dumps(record))
  os.replace(partial, path)


def _stopped(done: int, count: int) -> None:
  logging.warning("latent cache: stopped after %d of %d clips", done, count)
  if jax.process_count() == 1:
    raise preemption.Preempted


def _plain(frozen: Frozen) -> dict[str, dict[str, Any]]:
  """As nested dicts, which jax knows as pytrees whatever mapping came."""
  return {name: dict(weights) for name, weights in frozen.items()}


def _local(directory: str | os.PathLike[str]) -> pathlib.Path:
  if "://" in os.fspath(directory):
    raise ConfigError(
      f"train.latent_cache: {directory} is not a local folder, and the cache is"
      " memory-mapped: set train.latent_cache=False, or a workdir on a disk"
    )
  return pathlib.Path(directory)


class LatentLoader:
  """Endless shuffled batches of a cache; the order is a function of (seed, step)."""

  def __init__(
    self,
    dataset: LatentDataset,
    *,
    fingerprint: str,
    batch: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Args as for `data.pipeline.loader`; `batch` is the global one.

    `fingerprint` is what the dataset was found by, see `key`.

    Each process gets the rows i::n of a global batch, as Grain's iterator does.
    """
    if batch % process_count:
      raise ConfigError(
        f"optim.batch={batch} does not divide over {process_count} processes"
      )
    self._dataset = dataset
    self._fingerprint = fingerprint
    self._batch = batch
    self._seed = seed
    self._rows = slice(process_index, None, process_count)
    self._next = 0  # place of the next batch's first example in the global order
    self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

  def __iter__(self) -> Iterator[types.LatentBatch]:
    return self

  def __next__(self) -> types.LatentBatch:
    places = np.arange(self._next, self._next + self._batch)[self._rows]
    self._next += self._batch
    rows = np.array([self._row(int(place)) for place in places])
    fields = {
      name: None if array is None else np.asarray(array[rows])
      for name, array in self._dataset._asdict().items()
    }
    return types.LatentBatch(index=places.astype(np.int32), **fields)

  def get_state(self) -> dict[str, Any]:
    return {"next_index": self._next, "fingerprint": self._fingerprint}

  def set_state(self, state: dict[str, Any]) -> None:
    self._next = int(state["next_index"])

  def close(self) -> None:
    """Nothing is open but memory maps."""

  def _row(self, place: int) -> int:
    epoch, within = divmod(place, len(self._dataset))
    return int(self._epoch(epoch)[within])

  def _permutation(self, epoch: int) -> np.ndarray:
    key_bits = [self._seed, epoch]
    generator = np.random.Generator(np.random.Philox(key=np.array(key_bits, np.uint64)))
    return generator.permutation(len(self._dataset))
