# SPDX-License-Identifier: Apache-2.0
"""Formulations of convolution that XLA runs fast on CPUs.

What XLA's CPU backend is good and bad at (AVX-512, 2 threads, float32, GFLOP/s):
a 2-D NHWC convolution runs at 210-240, a 3-D one at 35-120, the gradient of a
dilated 3-D one at 2-10; a 2-D one without any padding at 75-90 (`_convolve`); the
kernel gradient of a 2-D convolution at 55-70 once the cotangent exceeds the cache,
against 140-200 for `_kernel_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import itertools
import math

import jax
from jax import lax
import jax.numpy as jnp

from lamd_jax.ops import platforms

Pair = tuple[int, int]
Triple = tuple[int, int, int]
# Elements of a cotangent from which on XLA's own kernel gradient falls off a cliff
# (1 MiB of float32, half a core's L2), and pixels of a block that fits well there.
_LARGE = 2**18
_BLOCK_PIXELS = 2048
# Up to this many channels a convolution is bound by memory: fold time into them.
_NARROW = 8


def conv2d(
  x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sequence[Pair]
) -> jax.Array:
  """Convolves frames x [N,H,W,I] with kernel [kh,kw,I,O] -> [N,H',W',O], any platform.

  Large maps get a kernel gradient of our own on CPUs, which rules out forward-mode
  differentiation there (`jax.custom_vjp`); elsewhere it is XLA's.
  """
  stride, padding = tuple(stride), tuple(tuple(p) for p in padding)
  y_shape = [
    (x.shape[1 + a] + sum(padding[a]) - kernel.shape[a]) // stride[a] + 1
    for a in (0, 1)
  ]
  pixels = x.shape[0] * math.prod(y_shape)
  if pixels * kernel.shape[-1] > _LARGE and stride == (1, 1):
    return _conv2d_large(x, kernel, padding)
  if pixels <= kernel.shape[-1]:
    return platforms.dependent(
      x,
      kernel,
      cpu=lambda x, kernel: _product(x, kernel, y_shape, stride, padding),
      default=lambda x, kernel: _conv2d(x, kernel, stride, padding),
    )
  return _conv2d(x, kernel, stride, padding)


def conv3d(
  x: jax.Array, kernel: jax.Array, stride: Triple, padding: Sequence[Pair]
) -> jax.Array:
  """As `conv.conv`: a sum over the kernel's frames of 2-D convolutions.

  Large maps go frame by frame instead (`_conv3d_large`).
  """
  kt, *_, width_in, width_out = kernel.shape
  step, spatial = stride[0], (stride[1:], padding[1:])
  frames = (x.shape[1] + sum(padding[0]) - kt) // step + 1
  shifted = lambda a: [
    lax.slice_in_dim(a, i, i + (frames - 1) * step + 1, step, 1) for i in range(kt)
  ]
  pad = lambda a: jnp.pad(a, ((0, 0), padding[0]) + ((0, 0),) * (a.ndim - 2))
  fold = lambda a: a.reshape(-1, *a.shape[2:])
  elements = x.shape[0] * frames * math.prod(x.shape[2:4]) * width_out
  wide = min(width_in, width_out) > _NARROW
  if wide and elements > _LARGE and tuple(stride) == (1, 1, 1):
    return _conv3d_large(pad(x), kernel, tuple(map(tuple, padding[1:])))
  if width_out <= _NARROW:
    # One convolution gives each frame's share in all frames it touches.
    merged = jnp.moveaxis(kernel, 0, -2).reshape(*kernel.shape[1:4], kt * width_out)
    y = _convolve(fold(x), merged, *spatial)
    shares = pad(y.reshape(*x.shape[:2], *y.shape[1:]))
    split = lambda a, i: a[..., i * width_out : (i + 1) * width_out]
    return sum(split(share, i) for i, share in enumerate(shifted(shares)))
  if width_in <= _NARROW:
    merged = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, width_out)
    y = _convolve(fold(jnp.concatenate(shifted(pad(x)), -1)), merged, *spatial)
  else:
    y = sum(
      _convolve(fold(a), kernel[i], *spatial) for i, a in enumerate(shifted(pad(x)))
    )
  return y.reshape(x.shape[0], frames, *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3d_large(
  x: jax.Array, kernel: jax.Array, padding: tuple[Pair, Pair]
) -> jax.Array:
  """Unit strides, time padded already: each output frame is one 2-D convolution.

  The frames it sees are laid side by side as channels, in cache, and the kernel's
  frames are summed within the product. A sum of shifted convolutions costs a quarter
  more and keeps their operands and results, all of the clip's size, until the backward
  pass; this keeps x.
  """
  kt, kh, kw, width_in, width_out = kernel.shape
  merged = jnp.moveaxis(kernel, 0, 2).reshape(kh, kw, kt * width_in, width_out)
  # See _convolve: a row of zeros that makes a row of output to drop.
  bare = not any(map(any, padding))
  around = ((0, 1), (0, 0)) if bare else padding

  def frame(t):
    near = jnp.moveaxis(lax.dynamic_slice_in_dim(x, t, kt, 1), 1, 3)
    y = _conv2d(near.reshape(*near.shape[:3], -1), merged, (1, 1), around)
    return y[:, None, :-1] if bare else y[:, None]

  frames = x.shape[1] - kt + 1
  one = jax.eval_shape(frame, 0)
  # Written in place: stacking frames in front of the batch would cost a transposition.
  # Every number is overwritten. It starts as some number of x because XLA makes room
  # for constants at the beginning of the program, for all layers at once; from the
  # middle, as the border may be constant zeros.
  some = x[0, x.shape[1] // 2, x.shape[2] // 2, x.shape[3] // 2, 0]
  start = jnp.broadcast_to(some, (one.shape[0], frames, *one.shape[2:]))
  write = lambda t, y: lax.dynamic_update_slice_in_dim(y, frame(t), t, 1)
  return lax.fori_loop(0, frames, write, start)


def _conv3d_large_forward(x, kernel, padding):
  return _conv3d_large(x, kernel, padding), (x, kernel)


def _conv3d_large_backward(padding, residuals, dy):
  x, kernel = residuals
  kt, kh, kw = kernel.shape[:3]
  fold = lambda a: a.reshape(-1, *a.shape[2:])
  # The gradient for x is the convolution of dy, padded fully, with the kernel mirrored.
  room = tuple((k - 1 - a, k - 1 - b) for k, (a, b) in zip((kh, kw), padding))
  mirrored = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
  widened = jnp.pad(dy, ((0, 0), (kt - 1, kt - 1), (0, 0), (0, 0), (0, 0)))

  def of_kernel(t):
    seen = lax.dynamic_slice_in_dim(x, t, dy.shape[1], 1)
    return _kernel_gradient(fold(seen), fold(dy), (kh, kw), padding)

  dkernel = lax.map(of_kernel, jnp.arange(kt)).astype(kernel.dtype)
  return _conv3d_large(widened, mirrored, room), dkernel


_conv3d_large.defvjp(_conv3d_large_forward, _conv3d_large_backward)


def _convolve(
  x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sequence[Pair]
) -> jax.Array:
  """`conv2d`, but never without padding: XLA takes a three times slower path there."""
  if any(map(any, padding)):
    return conv2d(x, kernel, stride, padding)
  # As many zero rows as give one more row of output, which is dropped.
  return conv2d(x, kernel, stride, ((0, stride[0]), (0, 0)))[:, :-1]


def conv_transpose(
  x: jax.Array,
  kernel: jax.Array,
  stride: Triple,
  convolve: Callable[..., jax.Array] = conv3d,
) -> jax.Array:
  """As `conv.conv_transpose`, without multiplying by the zeros of the dilation.

  Output n = s*m + phase sees the taps j = s*q + r of the kernel with j = -phase mod
  s, at the inputs m + q + (phase > 0). So one convolution with ceil(k/s) taps computes
  all phases as channels; a phase is read at its offset and the phases are interleaved.
  For k=4, s=2 in three axes that is 8 taps instead of 64. `convolve` is the convolution.
  """
  taps = [-(-k // s) for k, s in zip(kernel.shape, stride)]
  length = [(x.shape[1 + a] - 1) * stride[a] + 2 - kernel.shape[a] for a in range(3)]
  blocks = [-(-n // s) for n, s in zip(length, stride)]
  phased = _phases(kernel, taps, stride)
  # Phases above 0 start one input later.
  after = [
    (0, max(0, blocks[a] + (stride[a] > 1) + taps[a] - 1 - x.shape[1 + a]))
    for a in range(3)
  ]
  y = convolve(x, phased, (1, 1, 1), after)
  width = kernel.shape[-1]
  parts = []
  for i, phase in enumerate(itertools.product(*map(range, stride))):
    start = [int(p > 0) for p in phase]
    stop = [b + n for b, n in zip(start, blocks)]
    window = tuple(slice(b, e) for b, e in zip(start, stop))
    parts.append(y[(slice(None), *window, slice(i * width, (i + 1) * width))])
  stacked = jnp.stack(parts, 4).reshape(x.shape[0], *blocks, *stride, width)
  woven = stacked.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  whole = woven.reshape(x.shape[0], *(n * s for n, s in zip(blocks, stride)), width)
  return whole[:, : length[0], : length[1], : length[2]]


def _phases(kernel: jax.Array, taps: Sequence[int], stride: Triple) -> jax.Array:
  """Sorts kernel [kt,kh,kw,I,O] by phase: [qt,qh,qw,I,st*sh*sw*O]."""
  for axis, (count, s) in enumerate(zip(taps, stride)):
    # The axes already split stand behind; this one is always number `axis`.
    pad = [(0, 0)] * kernel.ndim
    pad[axis] = (0, count * s - kernel.shape[axis])
    split = jnp.pad(kernel, pad)
    split = split.reshape(*split.shape[:axis], count, s, *split.shape[axis + 1 :])
    remainder = jnp.array([-phase % s for phase in range(s)])
    split = jnp.take(split, remainder, axis=axis + 1)
    kernel = jnp.moveaxis(split, axis + 1, -2)
  return kernel.reshape(*kernel.shape[:4], -1)


def _conv2d(
  x: jax.Array, kernel: jax.Array, stride: Pair, padding: Sequence[Pair]
) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _product(
  x: jax.Array,
  kernel: jax.Array,
  y_shape: Sequence[int],
  stride: Pair,
  padding: Sequence[Pair],
) -> jax.Array:
  """A convolution as one matrix product with every pixel's neighbourhood.

  For maps with fewer pixels than the kernel has features, where the neighbourhoods
  take less room than the kernel and XLA's form, which reorders the kernel for each
  call and each gradient, runs at 20-100 GFLOP/s against 130-250 here.
  """
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  reach = [(n - 1) * s + 1 for n, s in zip(y_shape, stride)]
  window = lambda start, a: slice(start, start + reach[a], stride[a])
  near = jnp.concatenate(
    [
      x[:, window(i, 0), window(j, 1)]
      for i, j in itertools.product(*map(range, kernel.shape[:2]))
    ],
    axis=-1,
  )
  y = near.reshape(-1, near.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
  return y.reshape(x.shape[0], *y_shape, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d_large(
  x: jax.Array, kernel: jax.Array, padding: tuple[Pair, Pair]
) -> jax.Array:
  return _conv2d(x, kernel, (1, 1), padding)


def _conv2d_large_forward(x, kernel, padding):
  return _conv2d(x, kernel, (1, 1), padding), (x, kernel)


def _conv2d_large_backward(padding, residuals, dy):
  x, kernel = residuals
  # Transposed, not differentiated: that would trace the convolution once more, and who
  # counts operations (training/flops.py) would count it.
  of_x = jax.linear_transpose(lambda x: _conv2d(x, kernel, (1, 1), padding), x)

  def by_xla(x, kernel, dy):
    convolve = lambda kernel: _conv2d(x, kernel, (1, 1), padding)
    return jax.linear_transpose(convolve, kernel)(dy)[0]

  def by_blocks(x, kernel, dy):
    return _kernel_gradient(x, dy, kernel.shape[:2], padding).astype(kernel.dtype)

  gradient = platforms.dependent(x, kernel, dy, cpu=by_blocks, default=by_xla)
  return *of_x(dy), gradient


_conv2d_large.defvjp(_conv2d_large_forward, _conv2d_large_backward)


def _kernel_gradient(
  x: jax.Array, dy: jax.Array, size: Pair, padding: Sequence[Pair]
) -> jax.Array:
  """Gradient [kh,kw,I,O] of a unit-stride convolution, a few rows at a time.

  dk[i,j] = sum_n x[n]^T dy[n + before - (i,j)]: for a block of rows the kw shifted
  cotangents are laid side by side and kh matrix products taken, all in cache. XLA's
  form is one convolution whose window is the whole map.
  """
  kh, kw = size
  count, height, width, channels = x.shape
  features = dy.shape[-1]
  # lax.pad and not jnp.pad: a padding wider than the kernel crops here.
  room = [(k - 1 - a, k - 1 - b, 0) for k, (a, b) in zip(size, padding)]
  dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *room, (0, 0, 0)])
  fits = lambda r: height % r == 0 and count * r * width <= _BLOCK_PIXELS
  rows = max((r for r in range(1, height + 1) if fits(r)), default=1)

  def add_block(b, sums):
    block = lax.dynamic_slice_in_dim(x, b * rows, rows, 1).reshape(-1, channels)
    near = lax.dynamic_slice_in_dim(dy, b * rows, rows + kh - 1, 1)
    near = jnp.concatenate(
      [near[:, :, kw - 1 - j : kw - 1 - j + width] for j in range(kw)], -1
    )
    product = lambda i: lax.dot_general(
      block,
      near[:, kh - 1 - i : kh - 1 - i + rows].reshape(-1, kw * features),
      (((0,), (0,)), ((), ())),
      preferred_element_type=jnp.float32,
    )
    return tuple(total + product(i) for i, total in enumerate(sums))

  zero = jnp.zeros((channels, kw * features), jnp.float32)
  sums = lax.fori_loop(0, height // rows, add_block, (zero,) * kh)
  return jnp.stack(sums).reshape(kh, channels, kw, features).transpose(0, 2, 1, 3)
