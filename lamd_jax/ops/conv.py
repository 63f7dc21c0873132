# SPDX-License-Identifier: Apache-2.0
"""Convolution over clips: one function, several formulations of the same sum.

XLA's 3-D convolution is what TPUs and GPUs want and is two to three times slower
than need be on a CPU, where sums of 2-D convolutions do better. Kernels are always
stored [kt,kh,kw,I,O], so checkpoints do not depend on the formulation. Which form a
program gets is decided by the platform it is *lowered* for and not by the one it is
traced on (`platforms.py`): one compiled on a laptop for a TPU contains the TPU's form.

First-time readers may take `conv` for a plain convolution and skip the rest. The
CPU forms, with the measurements behind them, are in `conv_cpu.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import chex
import jax
from jax import lax
import jax.numpy as jnp

from lamd_jax.ops import axes
from lamd_jax.ops import conv_cpu
from lamd_jax.ops import platforms

Triple = tuple[int, int, int]
Padding = Sequence[tuple[int, int]]
_NO_PADDING = ((0, 0), (0, 0), (0, 0))


def conv(
  x: jax.Array,
  kernel: jax.Array,
  stride: Triple = (1, 1, 1),
  padding: Padding = _NO_PADDING,
) -> jax.Array:
  """Cross-correlates a clip with a kernel; zeros are padded.

  Args:
    x: [B,T,H,W,I] float.
    kernel: [kt,kh,kw,I,O], of the dtype of x.
    stride: step in (t, h, w).
    padding: zeros (before, after) in t, h and w.

  Returns:
    [B,T',H',W',O] of the dtype of x, T' = (T + before + after - kt) // stride + 1.

  Forward-mode differentiation (`jax.jvp`) is not defined for large maps: see
  `conv_cpu.conv2d`. Reverse mode, to any order, and `vmap` are.
  """
  chex.assert_rank([x, kernel], 5)
  chex.assert_equal(x.shape[-1], kernel.shape[-2])
  stride, padding = tuple(stride), tuple(tuple(p) for p in padding)
  kt, kh, kw = kernel.shape[:3]
  if kernel.shape[:3] == (1, 1, 1) and padding == _NO_PADDING:
    return _strided(x, stride) @ kernel[0, 0, 0]
  if kt == 1 and padding[0] == (0, 0):
    return _per_frame(_strided(x, (stride[0], 1, 1)), kernel, stride, padding)
  if axes.frame_parts() > 1:
    return _shifted(x, kernel, stride, padding)
  if (kh, kw) == (1, 1) and padding[1:] == _NO_PADDING[1:]:
    return _along_time(_strided(x, (1, *stride[1:])), kernel, stride[0], padding[0])
  return platforms.dependent(
    x,
    kernel,
    cpu=lambda x, kernel: conv_cpu.conv3d(x, kernel, stride, padding),
    default=lambda x, kernel: plain(x, kernel, stride, padding),
  )


def conv_transpose(x: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
  """Transposed convolution without padding: dilates x by `stride`, then convolves.

  Dilation puts stride-1 zeros *between* neighbours, so an axis of length L becomes
  (L-1)*stride + 2 - k; the caller pads x as the layer demands. The kernel is laid
  out for the convolution that follows the dilation: PyTorch's ConvTranspose3d weight
  [I,O,kt,kh,kw] becomes [kt,kh,kw,I,O] *flipped in its three spatial axes*.

  Args:
    x: [B,T,H,W,I] float.
    kernel: [kt,kh,kw,I,O], of the dtype of x.
    stride: dilation in (t, h, w).

  Returns:
    [B,T',H',W',O].
  """
  chex.assert_rank([x, kernel], 5)
  chex.assert_equal(x.shape[-1], kernel.shape[-2])
  stride = tuple(stride)
  if axes.frame_parts() > 1:
    return conv_cpu.conv_transpose(x, kernel, stride, _shifted)
  return platforms.dependent(
    x,
    kernel,
    cpu=lambda x, kernel: conv_cpu.conv_transpose(x, kernel, stride),
    default=lambda x, kernel: plain(x, kernel, dilation=stride),
  )


def plain(
  x: jax.Array,
  kernel: jax.Array,
  stride: Triple = (1, 1, 1),
  padding: Padding = _NO_PADDING,
  dilation: Triple = (1, 1, 1),
) -> jax.Array:
  """XLA's own 3-D convolution; `dilation` is that of x. What the forms must equal."""
  return lax.conv_general_dilated(
    x,
    kernel,
    stride,
    padding,
    lhs_dilation=dilation,
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
  )


def _strided(x: jax.Array, stride: Triple) -> jax.Array:
  if stride == (1, 1, 1):
    return x
  return x[:, :: stride[0], :: stride[1], :: stride[2]]


def _per_frame(
  x: jax.Array, kernel: jax.Array, stride: Triple, padding: Padding
) -> jax.Array:
  y = conv_cpu.conv2d(axes.fold(x), kernel[0], stride[1:], padding[1:])
  return axes.unfold(y, *x.shape[:2])


def _shifted(
  x: jax.Array, kernel: jax.Array, stride: Triple, padding: Padding
) -> jax.Array:
  """A sum over the kernel's frames, for clips that the mesh cuts in time.

  XLA 0.10 computes wrong numbers where one axis of the mesh cuts an axis that a
  convolution runs over and another one cuts its features; tests/ops/test_conv.py
  holds the case. Slices of time are exchanged correctly.
  """
  x = jnp.pad(x, ((0, 0), padding[0], *((0, 0),) * 3))
  kt, last = kernel.shape[0], x.shape[1] - kernel.shape[0]
  spatial = ((1, *stride[1:]), ((0, 0), *padding[1:]))
  part = lambda i: lax.slice_in_dim(x, i, i + last + 1, stride[0], 1)
  return sum(conv(part(i), kernel[i : i + 1], *spatial) for i in range(kt))


def _along_time(
  x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]
) -> jax.Array:
  batch, frames, height, width, channels = x.shape
  rows = x.reshape(batch, frames, height * width, channels)
  y = conv_cpu.conv2d(rows, kernel[:, :, 0], (stride, 1), (padding, (0, 0)))
  return y.reshape(batch, y.shape[1], height, width, math.prod(y.shape[3:]))
