# SPDX-License-Identifier: Apache-2.0
"""Names for the axes of activations, and where a mesh puts them.

A network says what an axis *is* and never which device it lies on; `MEANING` is the
one place that knows. Without a mesh, or on one device, everything here is the identity
and adds nothing to the program.

The axis `frames` cuts a clip in time. What looks at one frame (convolutions over
height and width, attention between pixels) then needs nothing from elsewhere. Attention
between frames needs all frames of a pixel: `by_pixel` exchanges, so that each device
holds some pixels of all frames, and `by_frame` exchanges back.

Flax's own logical constraints do nothing when the rules are missing and replicate an
array whose axis is misspelt; `constrain` raises for what it does not know.
"""

from __future__ import annotations

import functools
import logging
import math

import jax
from jax.sharding import PartitionSpec

from lamd_jax import meshes

# Logical axis -> the mesh axes that cut it.
MEANING: dict[str, tuple[str, ...]] = {
  "batch": ("data", "fsdp"),
  "frames": ("frames",),
  "pixels": ("frames",),  # where frames are whole
  "rows": ("data", "fsdp", "frames"),  # batch and frames, or batch and pixels, in one
  "channels": ("tensor",),
  "heads": ("tensor",),
  "whole": (),
  "free": (),  # the partitioner decides
}
# Arrays from this size on are reported when they cannot be cut as asked.
LARGE_BYTES = 4 << 20


def _mesh_sizes() -> dict[str, int]:
  """The current mesh, as sizes by axis; empty without one, or on a single device."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return {}
  return dict(mesh.shape)


def _known(names: tuple[str, ...], sizes: dict[str, int]) -> None:
  """Raises ValueError for a name that MEANING lacks, or an axis that the mesh lacks."""
  for name in names:
    if name not in MEANING:
      raise ValueError(f"{name!r} is no logical axis; choose from {', '.join(MEANING)}")
    for axis in MEANING[name] if sizes else ():
      if axis not in sizes:
        raise ValueError(
          f"logical axis {name} lies on {axis}, which the mesh {sizes} does not have"
        )


def constrain(x: jax.Array, *names: str) -> jax.Array:
  """Fixes where the axes of `x` lie, one name of MEANING each.

  An axis that its devices do not divide is left whole; of a large array this is
  reported, once.

  Raises:
    ValueError: a name is not in MEANING, there are more or fewer than axes, or the
      mesh lacks an axis that a name stands for.
  """
  sizes = _mesh_sizes()
  _known(names, sizes)
  if len(names) != x.ndim:
    raise ValueError(f"{len(names)} names {names} for the {x.ndim} axes of {x.shape}")
  used = {a for name in names for a in MEANING[name] if sizes.get(a, 1) > 1}
  if not used:
    return x
  spec = [_place(x, i, name, sizes) for i, name in enumerate(names)]
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _place(x: jax.Array, i: int, name: str, sizes: dict[str, int]) -> object:
  if name == "free":
    return PartitionSpec.UNCONSTRAINED
  cut = tuple(axis for axis in MEANING[name] if sizes[axis] > 1)
  parts = math.prod(sizes[axis] for axis in cut)
  if x.shape[i] % parts:
    if math.prod(x.shape) * x.dtype.itemsize >= LARGE_BYTES:
      _report(tuple(x.shape), i, name, parts)
    return None
  return cut or None


@functools.cache  # once for each
def _report(shape: tuple[int, ...], i: int, name: str, parts: int) -> None:
  logging.getLogger("absl").warning(
    "activation %s: axis %d (%s) is not divisible by %d and stays whole on each device",
    shape, i, name, parts,
  )  # fmt: skip


def frame_parts() -> int:
  """Into how many pieces the mesh cuts a clip in time; 1 without one."""
  return _mesh_sizes().get("frames", 1)


def gathered(kernel: jax.Array, layer: str | None) -> jax.Array:
  """Joins the pieces of a layer's kernel that the mesh's `fsdp` cuts, where it is used.

  Left to itself, the partitioner for TPUs sends the pieces round a ring and computes
  with one at a time: of 256 devices each holds a few channels of a kernel, which fill
  little of a matrix unit. Others exchange activations. The gradient is summed whole for
  the same reason, and then cut.
  """
  sizes = _mesh_sizes()
  if sizes.get("fsdp", 1) == 1:
    return kernel
  as_it_lies = PartitionSpec.UNCONSTRAINED
  spec: list[object] = [None] * kernel.ndim
  cut = meshes.tensor_axis(layer or "", kernel.shape, sizes.get("tensor", 1))
  if cut is not None:
    spec[cut] = as_it_lies
  # Held as it is first: else the array is joined that it was cast from, in float32.
  for places in ([as_it_lies] * kernel.ndim, spec):
    kernel = jax.lax.with_sharding_constraint(kernel, PartitionSpec(*places))
  return kernel


def row_parts() -> int:
  """Into how many pieces the mesh cuts rows of batch and pixels; 1 without one."""
  return math.prod(_mesh_sizes().get(axis, 1) for axis in MEANING["rows"])


def in_steps(x: jax.Array, at_once: int) -> jax.Array:
  """[N,...] -> [steps,n,...]: each step has `at_once` rows of every device.

  Data stay where they are; undo with `from_steps`. A device's rows are a multiple of
  `at_once`.
  """
  parts, rest = row_parts(), x.shape[1:]
  x = x.reshape(parts, -1, at_once, *rest).swapaxes(0, 1)
  x = x.reshape(-1, parts * at_once, *rest)
  return constrain(x, "whole", "rows", *("free",) * len(rest))


def from_steps(x: jax.Array) -> jax.Array:
  """[steps,n,...] -> [N,...]: the inverse of `in_steps`."""
  parts, rest = row_parts(), x.shape[2:]
  x = x.reshape(len(x), parts, -1, *rest).swapaxes(0, 1).reshape(-1, *rest)
  return constrain(x, "rows", *("free",) * len(rest))


def fold(x: jax.Array) -> jax.Array:
  """[B,T,...] -> [B*T,...] without moving data between devices; undo with `unfold`.

  Rows are in an order of their own where both axes are cut: what a device holds must
  be contiguous, or the partitioner gathers all frames first. The second axis may be
  another one that the mesh's `frames` cuts, such as pixels.
  """
  groups = _groups(x.shape[0], x.shape[1])
  if groups is None:
    return x.reshape(-1, *x.shape[2:])
  b, t = groups
  rest = x.shape[2:]
  x = x.reshape(b, x.shape[0] // b, t, x.shape[1] // t, *rest)
  x = x.swapaxes(1, 2).reshape(-1, *rest)
  return constrain(x, "rows", *("free",) * len(rest))


def unfold(x: jax.Array, batch: int, frames: int) -> jax.Array:
  """[B*T,...] -> [B,T,...]: the inverse of `fold`."""
  rest = x.shape[1:]
  groups = _groups(batch, frames)
  if groups is None:
    return x.reshape(batch, frames, *rest)
  b, t = groups
  x = x.reshape(b, t, batch // b, frames // t, *rest)
  x = x.swapaxes(1, 2).reshape(batch, frames, *rest)
  return constrain(x, "batch", "frames", *("free",) * len(rest))


def _groups(batch: int, frames: int) -> tuple[int, int] | None:
  """The pieces of both axes; None where a plain reshape does."""
  sizes = _mesh_sizes()
  t = sizes.get("frames", 1)
  b = math.prod(sizes.get(axis, 1) for axis in MEANING["batch"])
  if t == 1 or batch % b or frames % t:
    return None
  return b, t


def by_pixel(x: jax.Array) -> jax.Array:
  """[B,T,P,C] -> [B,P,T,C]: all frames of some pixels on each device."""
  x = constrain(x, "batch", "whole", "pixels", "free") if frame_parts() > 1 else x
  return x.swapaxes(1, 2)


def by_frame(x: jax.Array) -> jax.Array:
  """[B,P,T,C] -> [B,T,P,C]: all pixels of some frames on each device."""
  x = x.swapaxes(1, 2)
  return constrain(x, "batch", "frames", "whole", "free") if frame_parts() > 1 else x
