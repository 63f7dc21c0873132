# SPDX-License-Identifier: Apache-2.0
"""Latents computed once and kept: mean and log-variance of a fixed table of clips.

The folder of a cache is named by a hash of all that its numbers depend on, so a cache
of other weights or other clips is never read by mistake. What is stored is the
posterior; each visit of the training step draws from it afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import functools
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from lamd_jax import types
from lamd_jax.errors import ConfigError
from lamd_jax.training import distributed
from lamd_jax.training import latent_fill
from lamd_jax.training import preemption
from lamd_jax.training.stage import Frozen, Stage


def key(frozen: Frozen, description: Mapping[str, Any]) -> str:
  """Returns the name of a cache.

  Args:
    frozen: the weights that encode; every array of them enters, by path and bytes.
    description: JSON values that fix the clips: the data config, the hash of the
      index, the clip table or how it is drawn.
  """
  digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
  plain = {name: dict(weights) for name, weights in frozen.items()}
  for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
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
  if not (folder / latent_fill.COMPLETE).exists():
    return None
  fields = json.loads((folder / latent_fill.COMPLETE).read_text())["fields"]
  arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in fields}
  return LatentDataset(*(arrays.get(name) for name in LatentDataset._fields))


def build(
  stage: Stage,
  frozen: Frozen,
  batches: Callable[[int], Iterator[types.VideoBatch]],
  count: int,
  batch: int,
  directory: str | os.PathLike[str],
  stop: preemption.Stop,
) -> LatentDataset:
  """Fills a cache, or opens it, or completes one that was broken off.

  Several processes encode a share each, and all read the whole.

  Args:
    stage: its `encode` is what is stored.
    frozen: the weights that encode.
    batches: `batches(first)` yields the clips of the table in order from clip `first`
      on.
    count: clips in the table.
    batch: clips that `batches` yields at once.
    directory: a local folder, the same for all processes, whose last part is `key(...)`.
    stop: polled after each batch.

  Raises:
    preemption.Preempted: asked to stop; what is done is kept.
    ConfigError: there is no room, too few clips, or not all processes see the folder.
  """
  folder = _local(directory)
  # The first process alone looks: a host that looked too early may go on for a minute
  # not to see what another one makes on a network's disk. Also the devices' first
  # meeting, which has to be within ten minutes.
  complete = distributed.together(lambda: load(folder) is not None, first=True)
  if not distributed.of_first(bool(complete)):
    latent_fill.fill(stage, frozen, batches, count, batch, folder, stop)
  distributed.together(lambda: latent_fill.check_shared(folder))
  found = load(folder)
  assert found is not None
  return found


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
