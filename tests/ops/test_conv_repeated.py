# SPDX-License-Identifier: Apache-2.0
"""The forms for TPUs and GPUs are the same function as the one that copies; so are their
gradients.

What that one gives is compared with the reference in tests/nn/test_same_pad_conv.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.ops import conv_repeated
from tests import absent_devices

PLAIN = [((3, 3, 3), (1, 1, 1)), ((3, 3, 3), (2, 2, 2)), ((4, 4, 4), (2, 2, 2)),
         ((4, 4, 4), (1, 2, 2)), ((3, 3, 3), (1, 1, 2)), ((1, 3, 2), (1, 1, 1))]  # fmt: skip
TRANSPOSED = [((4, 4, 4), (2, 2, 2)), ((4, 4, 4), (1, 2, 2))]
CASES = [
  *(("stride", conv_repeated.conv, *case) for case in PLAIN),
  *(("dilation", conv_repeated.conv_transpose, *case) for case in TRANSPOSED),
]


def _arrays(kernel, clips=8, channels=3):
  generator = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(generator.standard_normal(shape, np.float32))
  return draw(clips, 4, 6, 8, channels), draw(*kernel, channels, 5), draw(5)


def _copies(text, height, channels=3):
  return [line for line in text.splitlines() if "stablehlo.concatenate" in line
          and f"x{height}x8x{channels}x" in line.split("->")[-1]]  # fmt: skip


@pytest.mark.parametrize(["step", "conv", "kernel", "stride"], CASES)
def test_unpadded_is_the_same_function(step, conv, kernel, stride):
  arrays = _arrays(kernel)
  unpadded = lambda *x: conv_repeated._unpadded(*x, stride=stride, step=step)
  padded = lambda *x: conv(*x, stride)
  expected = padded(*arrays)
  np.testing.assert_allclose(unpadded(*arrays), expected, rtol=1e-4, atol=1e-4)
  seen = np.random.default_rng(1).standard_normal(expected.shape, np.float32)
  found = [
    jax.grad(lambda *x: (seen * f(*x)).sum(), (0, 1, 2))(*arrays)
    for f in (unpadded, padded)
  ]
  for a, b in zip(*found, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(["kernel", "stride"], PLAIN)
def test_what_is_taken_by_index_is_the_same_function(kernel, stride):
  x = _arrays(kernel)[0]
  pads = tuple(conv_repeated._borders(k, s) for k, s in zip(kernel, stride))
  joined, taken = (
    jax.vjp(lambda x: f(x, pads), x)
    for f in (conv_repeated._joined, conv_repeated._taken)
  )
  np.testing.assert_array_equal(joined[0], taken[0])
  seen = np.random.default_rng(1).standard_normal(joined[0].shape, np.float32)
  np.testing.assert_array_equal(*(pull(seen)[0] for _, pull in (joined, taken)))


@pytest.mark.parametrize(["platform", "taken"], [("gpu", 1), ("tpu", 0), ("cpu", 0)])
def test_gpus_take_by_index(platform, taken):
  with absent_devices.mesh(platform):
    text = str(jax.make_jaxpr(conv_repeated.replicate_pad, static_argnums=(1, 2))(
      _arrays((3, 3, 3))[0], (3, 3, 3), (1, 1, 1)
    ))  # fmt: skip
  assert ("gather" in text) == taken and ("concatenate" in text) != taken


@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
@pytest.mark.parametrize(["step", "conv", "kernel", "stride"], CASES)
def test_for_tpus_height_and_width_are_not_copied(platform, step, conv, kernel, stride):
  del step
  program = jax.jit(lambda *x: conv(*x, stride))
  text = program.trace(*_arrays(kernel)).lower(lowering_platforms=(platform,)).as_text()
  assert bool(_copies(text, 6 + kernel[1] - stride[1])) == (platform != "tpu")


@pytest.mark.parametrize(
  "clips, channels, copied", [(2, 3, True), (12, 32, True), (2, 64, False), (16, 3, False)]
)
def test_few_clips_of_few_channels_are_copied_everywhere(clips, channels, copied):
  arrays = _arrays((3, 3, 3), clips, channels)
  program = jax.jit(lambda *x: conv_repeated.conv(*x, (1, 1, 1)))
  text = program.trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()
  assert bool(_copies(text, 8, channels)) == copied


def test_wider_borders_are_copied_everywhere():
  program = jax.jit(lambda *x: conv_repeated.conv_transpose(*x, (2, 1, 1)))
  text = program.trace(*_arrays((4, 4, 4))).lower(lowering_platforms=("tpu",)).as_text()
  assert "x9x8x3x" in text


def test_sides_that_do_not_come_out_even_are_copied_everywhere():
  """Their last row's border is left out with it: the border's share would be too much."""
  x, *rest = _arrays((4, 4, 4))
  program = jax.jit(lambda *x: conv_repeated.conv(*x, (2, 2, 2)))
  traced = program.trace(jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0), (0, 0))), *rest)
  assert "x9x8x3x" in traced.lower(lowering_platforms=("tpu",)).as_text()
