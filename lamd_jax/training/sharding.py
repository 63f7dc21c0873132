# SPDX-License-Identifier: Apache-2.0
"""Meshes, and where each array of the training state lies.

`meshes.py` says which axes there are and what the presets mean. Along `fsdp` every
large array is cut, and a kernel gathered when it is used (`ops/axes.py`: gathered). Along
`tensor` the layers are cut: of two matrices in a row the first by its outputs and the
second by its inputs, so that what lies between them, channels or heads, is never whole on
a device. `frames` cuts activations alone.

The axes are Auto: XLA propagates shardings, and a layer without annotation still works.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import math
from typing import Any

from absl import logging
import jax
from jax.experimental import mesh_utils
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from lamd_jax import meshes
from lamd_jax.errors import ConfigError

Tree = Any
BATCH_AXES = meshes.BATCH_AXES
# Smaller arrays are replicated: gathering them costs more than keeping them.
MIN_SHARD_BYTES = 4 << 20


def make_mesh(preset: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns the mesh of `train.mesh` over `devices` (all of them by default)."""
  devices = list(jax.devices() if devices is None else devices)
  if preset == "one":
    if devices[-1].process_index != devices[0].process_index:
      raise ConfigError(
        "train.mesh=one has the first device alone, and there are several processes;"
        " say --config.train.mesh=dp"
      )
    devices = devices[:1]  # small models: the others stay idle
  sizes = meshes.sizes(preset, len(devices))
  # Splitting lets a logical axis take part of a ring of a TPU slice: without it many
  # products have no arrangement at all.
  placed = mesh_utils.create_device_mesh(
    tuple(sizes.values()), devices, allow_split_physical_axes=True
  )
  # Auto axes, Mesh's default; jax.make_mesh's is Explicit, where Linen does not run.
  mesh = Mesh(placed, meshes.AXES)
  if jax.process_count() > 1 and not _own_rows(mesh):
    logging.warning(
      "train.mesh=%s: tensor or frames reach beyond a host, whose clips travel to the"
      " others at each step; cut them less",
      preset,
    )
  return mesh


def rows_mesh(devices: Sequence[jax.Device]) -> Mesh:
  """A mesh of devices that compute rows side by side and exchange nothing.

  Any will do; those of `make_mesh` have to fill a block of a TPU slice, as three of a
  host's four chips do not.
  """
  return Mesh(np.array(devices).reshape(-1, 1, 1, 1), meshes.AXES)


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
  names: Sequence[str],
  shape: Sequence[int],
  itemsize: int,
  sizes: dict[str, int],
  min_bytes: int,
) -> PartitionSpec:
  """Returns where an array of the state lies.

  Args:
    names: of its path; the layer's name and the parameter's are the last two.
    shape: its shape.
    itemsize: bytes of a number.
    sizes: of the mesh's axes.
    min_bytes: smaller arrays stay whole.

  A kernel is cut along `tensor` where `meshes.tensor_axis` says. Along `fsdp` the
  largest dimension that is left is, the last one among equals. A dimension that is not
  divisible is not cut.
  """
  spec: list[str | None] = [None] * len(shape)
  if math.prod(shape) * itemsize < min_bytes:
    return PartitionSpec()
  if names[-1] == "kernel":
    layer = names[-2] if len(names) > 1 else ""
    cut = meshes.tensor_axis(layer, shape, sizes["tensor"])
    if cut is not None:
      spec[cut] = "tensor"
  parts = sizes["fsdp"]
  free = [
    (size, axis)
    for axis, size in enumerate(shape)
    if size and size % parts == 0 and spec[axis] is None
  ]
  if parts > 1 and free:
    spec[max(free)[1]] = "fsdp"
  while spec and spec[-1] is None:
    spec.pop()
  return PartitionSpec(*spec)


def _names(path: Any) -> tuple[str, ...]:
  """The names on the way to an array, through dicts and named tuples."""
  return tuple(
    str(entry.key) if isinstance(entry, jax.tree_util.DictKey) else str(entry).strip(".")
    for entry in path
  )


def state_shardings(tree: Tree, mesh: Mesh, min_bytes: int = MIN_SHARD_BYTES) -> Tree:
  """Returns a NamedSharding for each array of `tree` (arrays or ShapeDtypeStructs).

  The rule sees shapes and the last two names of a path only, so a parameter, its moving
  average and its optimizer moments always lie alike. Large arrays that cannot be cut
  are named once in the log.
  """
  sizes = dict(mesh.shape)
  parts = sizes["fsdp"] * sizes["tensor"]
  cuts = f"fsdp {sizes['fsdp']}, tensor {sizes['tensor']}"

  def one(path: Any, leaf: Any) -> NamedSharding:
    itemsize = np.dtype(leaf.dtype).itemsize
    spec = spec_for(_names(path), leaf.shape, itemsize, sizes, min_bytes)
    size = math.prod(leaf.shape) * itemsize
    uncut = spec == PartitionSpec() or (sizes["fsdp"] > 1 and "fsdp" not in spec)
    if parts > 1 and leaf.ndim and size >= min_bytes and uncut:
      logging.warning(
        "%s %s (%.1f MiB) has no dimension that the mesh divides (%s): %s",
        jax.tree_util.keystr(path), leaf.shape, size / 2**20, cuts,
        "replicated over fsdp" if any(spec) else "replicated",
      )  # fmt: skip
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(one, tree)


def bytes_on_device(
  tree: Tree, sizes: dict[str, int], min_bytes: int = MIN_SHARD_BYTES
) -> int:
  """Bytes of `tree` on one device of a mesh of these sizes, as `state_shardings` cuts."""

  def one(path: Any, leaf: Any) -> int:
    itemsize = np.dtype(leaf.dtype).itemsize
    spec = spec_for(_names(path), leaf.shape, itemsize, sizes, min_bytes)
    parts = math.prod(sizes[axis] for axis in spec if axis)
    return math.prod(leaf.shape) * itemsize // parts

  return sum(jax.tree.leaves(jax.tree_util.tree_map_with_path(one, tree)))


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


def _own_rows(mesh: Mesh) -> bool:
  """Whether no two processes hold the same part of a batch."""
  owners: dict[tuple[int, ...], set[int]] = {}
  for position, device in np.ndenumerate(mesh.devices):
    owners.setdefault(position[: len(BATCH_AXES)], set()).add(device.process_index)
  return all(len(processes) == 1 for processes in owners.values())


def place_batch(batch: Tree, mesh: Mesh) -> Tree:
  """Joins the processes' parts of a batch to global arrays, cut over BATCH_AXES.

  Every process passes its own rows; the global batch is their concatenation. Where
  `tensor` or `frames` reach beyond a process, those that share rows exchange them.
  """
  sharding = batch_sharding(mesh)
  if _own_rows(mesh):
    join = functools.partial(jax.make_array_from_process_local_data, sharding)
  else:

    def join(x: np.ndarray) -> jax.Array:
      every = multihost_utils.process_allgather(x, tiled=True)
      return jax.make_array_from_callback(every.shape, sharding, lambda i: every[i])

  with jax.transfer_guard("allow"):  # asked for, though the guard cannot tell
    return jax.tree.map(lambda x: join(np.asarray(x)), batch)


def constrain(tree: Tree, shardings: Tree) -> Tree:
  """Inside jit: fixes where the arrays lie."""
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)
