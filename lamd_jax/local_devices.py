# SPDX-License-Identifier: Apache-2.0
"""Clips over the devices of this host: each has the weights and some of the clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from lamd_jax.training import sharding

Tree = Any


class LocalDevices:
  """A trained model's weights, where its clips are computed.

  Few clips take few devices: one clip leaves the others idle and free of weights. With
  `train.mesh=one`, of small models, that is always so.
  """

  def __init__(self, weights: Callable[[], Tree], preset: str):
    """Args: gives the weights, on one device or on the host; `train.mesh`."""
    devices = jax.local_devices()
    self._devices = devices[:1] if preset == "one" else devices
    self._weights = weights
    self._copied: tuple[Any, ...] = (None, [], None)  # mesh, of which arrays, copies

  def at_once(self, count: int, each: int) -> int:
    """Returns how many rows to compute at once, for `count` in all.

    At most `each` on a device, and as many on all that have any; up to one for each
    device more than there are left.
    """
    devices = min(len(self._devices), count)
    return -(-min(each * devices, count) // devices) * devices

  @contextlib.contextmanager
  def placed(self, rows: Tree) -> Iterator[tuple[Tree, Tree]]:
    """Gives weights and rows to call a compiled function with, inside the context.

    Args:
      rows: a tree of arrays with a row for each clip; None among them stays.
    """
    count = len(jax.tree.leaves(rows)[0])
    devices = max(n for n in range(1, len(self._devices) + 1) if count % n == 0)
    if devices == 1:
      yield self._weights(), rows
      return
    mesh = sharding.rows_mesh(self._devices[:devices])
    with jax.set_mesh(mesh):
      yield self._copies(mesh), jax.device_put(rows, sharding.batch_sharding(mesh))

  def in_chunks(
    self, run: Callable[[Tree, Tree], jax.Array], rows: Tree, each: int
  ) -> np.ndarray:
    """Returns run(weights, rows), computed for at most `each` rows a device at once.

    The last chunk is filled up with its last row: one program serves all.
    """
    count = len(jax.tree.leaves(rows)[0])
    size, done = self.at_once(count, each), []
    for start in range(0, count, size):
      places = np.minimum(np.arange(start, start + size), count - 1)
      with self.placed(jax.tree.map(lambda x: x[places], rows)) as (weights, part):
        done.append(np.asarray(run(weights, part))[: count - start])
    return np.concatenate(done)

  def _copies(self, mesh: Mesh) -> Tree:
    """The weights on all devices of `mesh`; made anew if someone has exchanged some."""
    before, of, copies = self._copied
    weights = self._weights()
    leaves = jax.tree.leaves(weights)
    same = len(of) == len(leaves) and all(a is b for a, b in zip(of, leaves))
    if before != mesh or not same:
      self._copied, copies = (None, [], None), None  # else both are held
      # What is there already, on the first device, is not copied.
      copies = jax.device_put(weights, sharding.replicated(mesh))
      self._copied = (mesh, leaves, copies)
    return copies
