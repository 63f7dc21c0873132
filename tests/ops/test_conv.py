# SPDX-License-Identifier: Apache-2.0
"""Every formulation of a convolution equals XLA's own 3-D one, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.ops import conv
from lamd_jax.ops import conv_cpu

NONE, ONE = (0, 0), (1, 1)
# Shape of x, kernel with outputs, stride, padding. Each reaches another branch.
CASES = {
  "per frame": ((2, 3, 6, 5, 4), (1, 3, 3, 6), (1, 1, 1), (NONE, ONE, ONE)),
  "per frame, strided": ((2, 3, 7, 6, 4), (1, 3, 3, 6), (2, 2, 2), (NONE, ONE, ONE)),
  "lopsided": ((2, 3, 6, 6, 4), (1, 3, 3, 6), (1, 2, 2), (NONE, (0, 1), (0, 1))),
  "time": ((2, 6, 3, 4, 4), (3, 1, 1, 6), (1, 1, 1), (ONE, NONE, NONE)),
  "time, strided": ((2, 7, 3, 4, 4), (4, 1, 1, 6), (2, 2, 1), ((2, 1), NONE, NONE)),
  "point": ((2, 3, 4, 5, 4), (1, 1, 1, 6), (1, 1, 1), (NONE, NONE, NONE)),
  "point, strided": ((2, 3, 4, 5, 4), (1, 1, 1, 6), (2, 1, 2), (NONE, NONE, NONE)),
  "point, padded": ((1, 2, 3, 3, 4), (1, 1, 1, 6), (1, 1, 1), (ONE, ONE, NONE)),
  "volume": ((2, 4, 5, 6, 12), (3, 3, 3, 10), (1, 1, 1), (ONE, ONE, ONE)),
  "volume, unpadded": ((2, 4, 5, 6, 12), (3, 3, 3, 10), (1, 1, 1), (NONE, NONE, NONE)),
  "volume, k4 s2": ((1, 6, 8, 6, 12), (4, 4, 4, 10), (2, 2, 2), (ONE, ONE, ONE)),
  "volume, k4 s2 unpadded": ((1, 6, 9, 6, 12), (4, 4, 4, 10), (1, 2, 2), (NONE,) * 3),
  "few in": ((2, 4, 5, 6, 3), (3, 3, 3, 10), (2, 1, 1), (ONE, NONE, ONE)),
  # Fewer pixels than features: one matrix product.
  "tiny map": ((2, 1, 3, 4, 5), (1, 3, 3, 30), (1, 1, 1), (NONE, ONE, ONE)),
  "tiny map, strided": ((1, 2, 6, 7, 5), (1, 3, 4, 30), (1, 2, 2), (NONE, (0, 2), ONE)),
  "few out": ((2, 5, 5, 6, 12), (3, 3, 3, 3), (2, 2, 1), ((2, 1), ONE, ONE)),
}
# Outputs of more than 2^18 elements take the kernel gradient by blocks.
LARGE = {
  "per frame": ((2, 2, 96, 64, 8), (1, 3, 3, 12), (1, 1, 1), (NONE, ONE, ONE)),
  "wide padding": ((1, 2, 80, 70, 8), (1, 3, 5, 26), (1, 1, 1), (NONE, (0, 3), (6, 1))),
  "time": ((1, 12, 64, 48, 8), (3, 1, 1, 9), (1, 1, 1), (ONE, NONE, NONE)),
  "volume": ((1, 3, 66, 50, 9), (3, 3, 3, 90), (1, 1, 1), (ONE, NONE, NONE)),
  "volume, lopsided": (
    (2, 5, 40, 40, 12), (2, 3, 4, 20), (1, 1, 1), ((1, 0), (0, 2), (3, 1))
  ),
}
TRANSPOSED = {
  "k4 s2": ((2, 4, 5, 6, 9), (4, 4, 4, 10), (2, 2, 2)),
  "k4 s1 in time": ((1, 7, 5, 4, 9), (4, 4, 4, 10), (1, 2, 2)),
  "k no multiple of s": ((1, 5, 6, 7, 9), (3, 4, 5, 10), (2, 3, 4)),
  "k below s": ((1, 3, 4, 3, 9), (2, 2, 1, 10), (3, 2, 2)),
}


def _arrays(x_shape, kernel_shape):
  rng = np.random.default_rng(0)
  kernel_shape = (*kernel_shape[:3], x_shape[-1], kernel_shape[3])
  draw = lambda shape: rng.standard_normal(shape, np.float32)
  return draw(x_shape), draw(kernel_shape)


def _with_gradients(function, x, kernel):
  def run(x, kernel):
    y, pull = jax.vjp(function, x, kernel)
    # A cotangent that differs in every element.
    dy = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return y, *pull(dy.astype(y.dtype))

  return jax.jit(run)(x, kernel)


def _assert_same(ours, reference, x, kernel, limit=2e-6):
  # float32 sums in another order; `limit` is relative to the largest value.
  for a, b in zip(
    _with_gradients(ours, x, kernel), _with_gradients(reference, x, kernel)
  ):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=limit * float(jnp.abs(b).max()))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_conv_equals_plain(case):
  x_shape, kernel_shape, stride, padding = case
  _assert_same(
    lambda x, k: conv.conv(x, k, stride, padding),
    lambda x, k: conv.plain(x, k, stride, padding),
    *_arrays(x_shape, kernel_shape),
  )


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_large_maps_equal_plain(case):
  x_shape, kernel_shape, stride, padding = case
  x, kernel = _arrays(x_shape, kernel_shape)
  gradient = jax.make_jaxpr(
    jax.grad(lambda k: conv.conv(x, k, stride, padding).sum())
  )(kernel)
  assert "while" in str(gradient) or "scan" in str(gradient)  # by blocks
  _assert_same(
    lambda x, k: conv.conv(x, k, stride, padding),
    lambda x, k: conv.plain(x, k, stride, padding),
    x,
    kernel,
    limit=1e-5,  # a kernel's gradient sums 10^4 terms
  )


@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED)
def test_conv_transpose_equals_plain(case):
  x_shape, kernel_shape, stride = case
  _assert_same(
    lambda x, k: conv.conv_transpose(x, k, stride),
    lambda x, k: conv.plain(x, k, dilation=stride),
    *_arrays(x_shape, kernel_shape),
  )


def test_bfloat16_stays_and_kernel_gradient_sums_in_float32():
  x, kernel = _arrays((1, 2, 96, 64, 8), (1, 3, 3, 24))
  # Sums of 12,288 ones: bfloat16 would stop counting at 256.
  ones = jnp.ones(x.shape, jnp.bfloat16)
  total = lambda k: conv.conv(ones, k, padding=(NONE, ONE, ONE)).sum()
  gradient = jax.jit(jax.grad(total))(kernel.astype(jnp.bfloat16))
  assert gradient.dtype == jnp.bfloat16
  middle = gradient[0, 1, 1].astype(np.float32)
  np.testing.assert_allclose(middle, 2 * 96 * 64, rtol=1e-2)


def test_second_derivatives_and_vmap_pass_the_large_form():
  x, kernel = _arrays((2, 1, 64, 64, 4), (1, 3, 3, 70))
  padding = ((0, 0), (1, 1), (1, 1))
  loss = lambda f: lambda k: jnp.square(f(x, k, padding=padding)).sum()
  twice = lambda f: jax.grad(lambda k: jax.grad(loss(f))(k).ravel()[:9].sum())(kernel)
  ours, reference = twice(conv.conv), twice(conv.plain)
  limit = 1e-4 * np.abs(reference).max()
  np.testing.assert_allclose(ours, reference, rtol=0, atol=limit)
  each = lambda f: jax.vmap(lambda a: f(a[None], kernel, padding=padding))(x)
  np.testing.assert_allclose(each(conv.conv), each(conv.plain), rtol=0, atol=1e-4)


def test_the_form_follows_the_platform_a_program_is_lowered_for():
  x, kernel = _arrays((1, 4, 8, 8, 12), (3, 3, 3, 12))

  def text(function, platform):
    lowered = jax.jit(function).trace(x, kernel).lower(lowering_platforms=(platform,))
    return lowered.as_text()

  volume = lambda x, k: conv.conv(x, k, padding=(ONE, ONE, ONE))
  upwards = lambda x, k: conv.conv_transpose(x, k, (2, 2, 2))
  for function in (volume, upwards):
    assert "[b, 0, 1, 2, f]" in text(function, "tpu")  # one 3-D convolution
    assert text(function, "tpu").count("stablehlo.convolution(") == 1
    assert "[b, 0, 1, 2, f]" not in text(function, "cpu")  # 2-D ones
  assert text(volume, "cpu").count("stablehlo.convolution(") == 3


def test_kernel_gradient_of_any_block_size(monkeypatch):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, 12, 7, 4), np.float32)
  dy = rng.standard_normal((3, 12, 7, 5), np.float32)
  results = []
  for pixels in (1, 50, 130, 10_000):  # 1, 2, 6 and all 12 rows at a time
    monkeypatch.setattr(conv_cpu, "_BLOCK_PIXELS", pixels)
    results.append(conv_cpu._kernel_gradient(x, dy, (3, 3), (ONE, ONE)))
  # The definition, written out.
  padded = np.pad(x, ((0, 0), ONE, ONE, NONE))
  expected = np.zeros((3, 3, 4, 5))
  for i in range(3):
    for j in range(3):
      expected[i, j] = np.einsum("nhwi,nhwo->io", padded[:, i : i + 12, j : j + 7], dy)
  for result in results:
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


def test_mismatched_channels_are_refused():
  x, kernel = _arrays((1, 2, 4, 4, 3), (1, 3, 3, 5))
  with pytest.raises(AssertionError):
    conv.conv(x[..., :2], kernel)


@pytest.mark.parametrize("sizes", [(2, 1, 2, 2), (1, 2, 1, 4), (1, 2, 2, 2)])
def test_clips_cut_in_time_give_the_same_numbers_and_gradients(sizes):
  # XLA's partitioner is wrong by the size of the result in the case (2, 1, 2, 2) if it
  # is given one convolution over time whose features are cut along another axis.
  shape = (4, 8, 4, 4, 6)
  x, along = _arrays(shape, (3, 1, 1, 6, 8))
  _, volume = _arrays(shape, (4, 3, 3, 6, 8))
  _, upward = _arrays(shape, (4, 4, 4, 6, 8))

  def total(x, along, volume, upward):
    a = conv.conv(x, along, padding=(ONE, NONE, NONE))
    b = conv.conv(x, volume, stride=(2, 1, 1), padding=(ONE, ONE, ONE))
    c = conv.conv_transpose(x, upward, (2, 2, 2))
    return sum(jnp.sum(jnp.sin(y)) for y in (a, b, c)), (a, b, c)

  both = jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)
  expected = jax.jit(both)(x, along, volume, upward)
  names = ("data", "fsdp", "tensor", "frames")
  mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(sizes), names)
  clip = jax.P(("data", "fsdp"), "frames")
  kernel = jax.P(None, None, None, None, "tensor")
  with jax.set_mesh(mesh):
    found = jax.jit(both, in_shardings=(clip, kernel, kernel, kernel))(
      *jax.device_get((x, along, volume, upward))
    )
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
