# SPDX-License-Identifier: Apache-2.0
"""Packs the many small arrays of a parameter tree into a few vectors, and back.

A UNet has some 800 parameter arrays, and XLA compiles an optimizer update for each:
a third of the step's compile time. Element-wise work therefore runs on bundles, inside
the step only: the state and its checkpoints stay trees. What unpacks a result must not
be fused with what computes it; the step puts a branch between the two.

Arrays are bundled when they lie alike. The packing runs under `shard_map`, on each
device's own pieces, so it can add no collective. Arrays of LARGE elements and more
stay alone: they are few, and packing them would copy most of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jax.numpy as jnp

Tree = Any
LARGE = 1 << 18
# XLA's compile time for the slices of one array grows with their number squared: on a
# CPU 286 slices of one vector take 5.4 s, 16 vectors of 18 slices 0.3 s.
MEMBERS = 24


def _sharded_axes(spec: PartitionSpec) -> tuple[str, ...]:
  # Sorted, so that arrays cut along the same axes in another order share a bundle.
  return tuple(sorted(axis for axis in spec if axis is not None))


class Bundles:
  """How one parameter tree is packed. Everything here is static."""

  def __init__(self, tree: Tree, shardings: Tree, large: int = LARGE):
    """Plans the packing.

    Args:
      tree: arrays or ShapeDtypeStructs.
      shardings: a NamedSharding for each, of one mesh; a dimension has one mesh axis at most.
      large: number of elements from which an array stays alone.
    """
    leaves, self._treedef = jax.tree.flatten(tree)
    placed: list[NamedSharding] = jax.tree.leaves(shardings)
    self._mesh: Mesh | None = placed[0].mesh if placed else None
    self._specs = [sharding.spec for sharding in placed]
    self._local = [
      placed[i].shard_shape(tuple(leaf.shape)) for i, leaf in enumerate(leaves)
    ]
    every: dict[str, list[int]] = {}
    for i, leaf in enumerate(leaves):
      if math.prod(leaf.shape) >= large:
        key = f"array_{i}"
      else:
        axes = "_".join(_sharded_axes(self._specs[i])) or "replicated"
        key = f"bundle_{axes}_{jnp.dtype(leaf.dtype).name}"
      every.setdefault(key, []).append(i)
    self._members = {
      f"{key}_{start}": members[start : start + MEMBERS]
      for key, members in every.items()
      for start in range(0, len(members), MEMBERS)
    }

  def matches(self, tree: Tree) -> bool:
    """Whether `tree` is built like the planned one."""
    return jax.tree.structure(tree) == self._treedef

  def pack(self, tree: Tree) -> dict[str, jax.Array]:
    """Returns the bundles of `tree`, each [N]; lone arrays as they are."""
    leaves = self._treedef.flatten_up_to(tree)
    packed = {}
    for key, members in self._members.items():
      parts = [leaves[i] for i in members]
      packed[key] = parts[0] if self._alone(key) else self._pack(members, parts)
    return packed

  def unpack(self, packed: dict[str, jax.Array]) -> Tree:
    """The inverse of `pack`."""
    leaves: list[Any] = [None] * self._treedef.num_leaves
    for key, members in self._members.items():
      alone = self._alone(key)
      parts = [packed[key]] if alone else self._unpack(members, packed[key])
      for i, part in zip(members, parts, strict=True):
        leaves[i] = part
    return jax.tree.unflatten(self._treedef, leaves)

  def pack_state(self, state: Tree) -> Tree:
    """Packs every part of an optimizer's state that is built like the parameters."""
    return jax.tree.map(
      lambda x: self.pack(x) if self.matches(x) else x, state, is_leaf=self.matches
    )

  def unpack_state(self, state: Tree) -> Tree:
    """The inverse of `pack_state`."""
    is_packed = lambda x: isinstance(x, dict) and x.keys() == self._members.keys()
    return jax.tree.map(
      lambda x: self.unpack(x) if is_packed(x) else x, state, is_leaf=is_packed
    )

  def _alone(self, key: str) -> bool:
    return key.startswith("array_")

  def _vector_spec(self, members: list[int]) -> PartitionSpec:
    return PartitionSpec(_sharded_axes(self._specs[members[0]]) or None)

  def _map(self, f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable:
    return jax.shard_map(f, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs)

  def _pack(self, members: list[int], parts: list[jax.Array]) -> jax.Array:
    join = lambda xs: jnp.concatenate([x.reshape(-1) for x in xs])
    specs = [self._specs[i] for i in members]
    return self._map(join, (specs,), self._vector_spec(members))(parts)

  def _unpack(self, members: list[int], vector: jax.Array) -> list[jax.Array]:
    shapes = [self._local[i] for i in members]

    def split(x: jax.Array) -> list[jax.Array]:
      parts, start = [], 0
      for shape in shapes:
        size = math.prod(shape)
        parts.append(jax.lax.slice(x, (start,), (start + size,)).reshape(shape))
        start += size
      return parts

    specs = [self._specs[i] for i in members]
    return self._map(split, (self._vector_spec(members),), specs)(vector)
