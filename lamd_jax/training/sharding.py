# SPDX-License-Identifier: Apache-2.0
"""Meshes, and where each array of the training state lies.

One mesh has four named axes; a preset says how many devices each gets:

  data    copies of the parameters, each with its part of the batch
  fsdp    parts of the batch too, but every large array is also cut into that many
          pieces, gathered when it is used
  tensor  parts of a layer; frames: parts of a clip. Of size 1 in today's presets.

The axes are Auto: XLA propagates shardings, and Linen code needs no annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

from absl import logging
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from lamd_jax.errors import ConfigError

Tree = Any
AXES = ("data", "fsdp", "tensor", "frames")
BATCH_AXES = ("data", "fsdp")  # both cut the batch
# Smaller arrays are replicated: gathering them costs more than keeping them.
MIN_SHARD_BYTES = 4 << 20

# Devices on each of AXES, given how many there are.
PRESETS: dict[str, Callable[[int], tuple[int, int, int, int]]] = {
  "one": lambda n: (1, 1, 1, 1),
  "dp": lambda n: (n, 1, 1, 1),
  "fsdp": lambda n: (1, n, 1, 1),
}


def make_mesh(preset: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns the mesh of a preset over `devices` (all of them by default)."""
  if preset not in PRESETS:
    raise ConfigError(f"train.mesh={preset!r} is not one of {', '.join(PRESETS)}")
  devices = list(jax.devices() if devices is None else devices)
  if preset == "one":
    devices = devices[:1]  # small models: the others stay idle
  return jax.make_mesh(
    PRESETS[preset](len(devices)),
    AXES,
    # make_mesh's default is Explicit, under which ordinary Linen code does not run.
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
  )


def batch_parts(mesh: Mesh) -> int:
  """Into how many pieces the mesh cuts a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh, batch: int, accumulate: int) -> None:
  """Raises ConfigError unless every micro-batch divides over the devices."""
  parts = batch_parts(mesh)
  if batch % (accumulate * parts):
    raise ConfigError(
      f"optim.batch={batch} does not divide into {accumulate} micro-batches"
      f" (optim.accumulate) over {parts} devices: make it a multiple of"
      f" {accumulate * parts}, or set optim.accumulate lower"
    )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of any array whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def spec_for(
  shape: Sequence[int], itemsize: int, parts: int, min_bytes: int
) -> PartitionSpec:
  """Cuts the largest dimension that `parts` divides; the last one among equals."""
  if parts == 1 or math.prod(shape) * itemsize < min_bytes:
    return PartitionSpec()
  free = [(size, axis) for axis, size in enumerate(shape) if size % parts == 0 and size]
  if not free:
    return PartitionSpec()
  axis = max(free)[1]
  return PartitionSpec(*[None] * axis, "fsdp")


def state_shardings(tree: Tree, mesh: Mesh, min_bytes: int = MIN_SHARD_BYTES) -> Tree:
  """Returns a NamedSharding for each array of `tree` (arrays or ShapeDtypeStructs).

  The rule sees shapes only, so a parameter, its moving average and its optimizer
  moments always lie alike. Large arrays that cannot be cut are named once in the log.
  """
  parts = mesh.shape["fsdp"]

  def one(path: Any, leaf: Any) -> NamedSharding:
    itemsize = np.dtype(leaf.dtype).itemsize
    spec = spec_for(leaf.shape, itemsize, parts, min_bytes)
    size = math.prod(leaf.shape) * itemsize
    if parts > 1 and leaf.ndim and size >= min_bytes and spec == PartitionSpec():
      logging.warning(
        "%s %s (%.1f MiB) has no dimension divisible by %d: replicated",
        jax.tree_util.keystr(path), leaf.shape, size / 2**20, parts,
      )  # fmt: skip
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(one, tree)


def place(tree: Tree, shardings: Tree) -> Tree:
  """Puts host arrays, equal on all processes, on the devices."""

  def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
    leaf = np.asarray(leaf)
    if jax.process_count() > 1:
      # The guard takes this for an implicit transfer.
      with jax.transfer_guard("allow"):
        return jax.make_array_from_callback(
          leaf.shape, sharding, lambda index: np.array(leaf[index])
        )
    # A copy that only JAX knows: on a CPU it may keep NumPy's memory instead of
    # copying, even with may_alias=False.
    return jax.device_put(leaf.copy(), sharding)

  return jax.tree.map(one, tree, shardings)


def place_batch(batch: Tree, mesh: Mesh) -> Tree:
  """Joins the processes' parts of a batch to global arrays, cut over BATCH_AXES.

  Every process passes its own rows; the global batch is their concatenation.
  """
  join = functools.partial(
    jax.make_array_from_process_local_data, batch_sharding(mesh)
  )
  with jax.transfer_guard("allow"):  # asked for, though the guard cannot tell
    return jax.tree.map(lambda x: join(np.asarray(x)), batch)


def constrain(tree: Tree, shardings: Tree) -> Tree:
  """Inside jit: fixes where the arrays lie."""
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)
