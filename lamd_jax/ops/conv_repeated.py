# SPDX-License-Identifier: Apache-2.0
"""Convolutions over clips whose border is repeated, plain and transposed.

A convolution can pad zeros by itself; repeating the border takes a copy of the clip, of
which a TPU moves gigabytes at full resolution, in tiles that few channels fill to a
quarter. There zeros are padded, and what the border's rows and columns add is computed
from them alone, for the outermost rows and columns of the result. Other platforms copy,
GPUs once, and so do few clips of few channels, which XLA lays out with neither in a
tile's rows.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from lamd_jax.ops import axes
from lamd_jax.ops import conv as conv_ops
from lamd_jax.ops import platforms

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], ...]  # before and after, in t, h and w
_HEIGHT, _WIDTH = 2, 3  # axes of a clip
# From here on channels fill half the lanes of a TPU's tile, clips all of its rows.
_MANY_CHANNELS, _MANY_CLIPS = 64, 8


def replicate_pad(x: jax.Array, kernel: Triple, stride: Triple) -> jax.Array:
  """Repeats the border of x [B,T,H,W,C] by kernel - stride in t, h and w."""
  pads = tuple(_borders(k, s) for k, s in zip(kernel, stride))
  joined = functools.partial(_joined, pads=pads)
  if axes.frame_parts() > 1 or not any(map(any, pads)):
    return joined(x)
  return platforms.dependent(x, cuda=lambda x: _taken(x, pads), default=joined)


def _joined(x: jax.Array, pads: Pads) -> jax.Array:
  # jnp.pad(mode="edge") pads the other axes by nothing, but its gradient then adds
  # whole arrays of zeros: an eighth more memory in a training step.
  for axis, (before, after) in enumerate(pads, 1):
    edges = [
      jnp.repeat(jax.lax.slice_in_dim(x, at, at + 1, axis=axis), count, axis)
      for at, count in ((0, before), (x.shape[axis] - 1, after))
    ]
    x = jnp.concatenate([edges[0], x, edges[1]], axis) if before + after else x
  return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _taken(x: jax.Array, pads: Pads) -> jax.Array:
  """The same by index: GPUs copy the clip once, where joining copies it for each axis.

  Not so the gradient, whose sums of slices are one pass already.
  """
  for axis, (before, after) in enumerate(pads, 1):
    if before + after:
      last = x.shape[axis] - 1
      places = np.clip(np.arange(-before, last + after + 1), 0, last)
      x = jnp.take(x, places, axis, mode="clip")
  return x


def _taken_backward(pads: Pads, _: None, change: jax.Array) -> tuple[jax.Array]:
  shape = [n - sum(p) for n, p in zip(change.shape, ((0, 0), *pads, (0, 0)))]
  x = jax.ShapeDtypeStruct(shape, change.dtype)
  return jax.linear_transpose(functools.partial(_joined, pads=pads), x)(change)


_taken.defvjp(lambda x, pads: (_taken(x, pads), None), _taken_backward)


def conv(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: Triple
) -> jax.Array:
  """[B,T,H,W,I] -> [B,T/st,H/sh,W/sw,O]; kernel [kt,kh,kw,I,O], bias [O]."""
  return _conv(x, kernel, bias, stride, conv_ops.conv, "stride")


def conv_transpose(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: Triple
) -> jax.Array:
  """[B,T,H,W,I] -> [B,T*st,H*sh,W*sw,O]; kernel as of `ops.conv.conv_transpose`."""
  return _conv(x, kernel, bias, stride, conv_ops.conv_transpose, "dilation")


def _conv(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: Triple,
  of_padded: Callable[..., jax.Array], step: str,
) -> jax.Array:  # fmt: skip
  padded = lambda x, kernel, bias: (
    of_padded(replicate_pad(x, kernel.shape[:3], stride), kernel, stride) + bias
  )
  pads = [_borders(k, s) for k, s in zip(kernel.shape[1:3], stride[1:])]
  sides = zip(x.shape[2:4], kernel.shape[1:3], pads, stride[1:])
  # What does not come out even leaves out the last row or column, border and all.
  uneven = step == "stride" and any((n + sum(p) - k) % s for n, k, p, s in sides)
  # XLA mistakes convolutions over an axis that the mesh cuts: see `ops.conv`.
  wide = max(map(max, pads)) > 1
  clips = x.shape[0] // axes.row_parts()
  few = x.shape[-1] < _MANY_CHANNELS and clips % _MANY_CLIPS != 0
  if axes.frame_parts() > 1 or not any(map(any, pads)) or wide or uneven or few:
    return padded(x, kernel, bias)
  unpadded = functools.partial(_unpadded, stride=stride, step=step)
  return platforms.dependent(x, kernel, bias, tpu=unpadded, default=padded)


def _borders(kernel: int, stride: int) -> tuple[int, int]:
  """How often the border is repeated, before and after."""
  count = max(kernel - stride, 0)
  return (count + 1) // 2, count // 2


def _unpadded(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, *, stride: Triple, step: str
) -> jax.Array:
  """Zeros around, then what the border adds; it is one pixel wide at most."""
  run = functools.partial(conv_ops.plain, **{step: stride})
  height, width = (_borders(k, s) for k, s in zip(kernel.shape[1:3], stride[1:]))
  # A transposed convolution pads what it has dilated.
  wide = stride if step == "dilation" else (1, 1, 1)
  down, across = (
    tuple(n * wide[axis] for n in pads) for axis, pads in ((1, height), (2, width))
  )
  none = (0, 0)
  # In time there are whole frames to repeat, on an axis that no tile holds.
  x = replicate_pad(x, (kernel.shape[0], 1, 1), (stride[0], 1, 1))
  # The bias here and not at the end, or it is a pass of its own.
  out = run(x, kernel, padding=(none, down, across)) + bias
  for axis, pads in ((_HEIGHT, height), (_WIDTH, width)):
    for last in (side for side in (False, True) if pads[side]):
      border = _edge(x, axis, last)
      padding = (none, down, none)
      if axis == _HEIGHT:  # corners are the rows'
        border = replicate_pad(border, (1, 1, kernel.shape[2]), (1, 1, stride[2]))
        padding = (none, none, none)
      added = run(border, _edge(kernel, axis - 1, last), padding=padding)
      place = out.shape[axis] - 1 if last else 0
      added += _edge(out, axis, last)
      out = lax.dynamic_update_slice_in_dim(out, added, place, axis)
  return out


def _edge(x: jax.Array, axis: int, last: bool) -> jax.Array:
  at = x.shape[axis] - 1 if last else 0
  return lax.slice_in_dim(x, at, at + 1, axis=axis)
