# SPDX-License-Identifier: Apache-2.0
"""Rows of a batch over all devices, clips over the processors of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import itertools
import os
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

Rows = tuple[np.ndarray, ...]


class OverDevices:
  """A function of (parameters, rows [B,...], ...), compiled for a batch on all devices.

  Attributes:
    batch: rows at once, on all devices together.
  """

  def __init__(self, apply: Callable[..., jax.Array], params: Any, batch: int):
    """Args: the function, its parameters, rows at once; rounded up to the devices."""
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("rows",))
    self._rows = NamedSharding(mesh, PartitionSpec("rows"))
    self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    self.batch = -(-batch // len(devices)) * len(devices)
    self._apply = jax.jit(apply)

  def __call__(self, rows: Iterable[Rows]) -> Iterator[np.ndarray]:
    """Yields what becomes of rows, [b,...] of b <= batch of them at a time.

    A row is a tuple of arrays, one for each argument after the parameters.
    """
    # One batch ahead: the host reads the next rows while the devices compute.
    before = None
    for part in _batches(rows, self.batch):
      # One shape, one compilation: the last batch repeats its last row.
      full = [*part, *[part[-1]] * (self.batch - len(part))]
      arguments = [jax.device_put(np.stack(x), self._rows) for x in zip(*full)]
      with jax.default_matmul_precision("highest"):
        made = self._apply(self._params, *arguments)
      if before is not None:
        yield np.asarray(before)  # a whole batch: only the last one is padded
      before, count = made, len(part)
    if before is not None:
      yield np.asarray(before)[:count]


def over_processors(
  function: Callable[..., Any], rows: Iterable[tuple[Any, ...]]
) -> Iterator[Any]:
  """Yields function(*row) in order; for NumPy, which lets threads work side by side.

  As many rows are held as there are processors.
  """
  count = os.cpu_count() or 1
  with futures.ThreadPoolExecutor(count) as pool:
    for part in _batches(rows, count):
      yield from pool.map(lambda row: function(*row), part)


def _batches(rows: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
  supply = iter(rows)
  while part := tuple(itertools.islice(supply, size)):
    yield part
