# SPDX-License-Identifier: Apache-2.0
"""Counted operations against those worked out by hand."""

import jax
import jax.numpy as jnp
import pytest

from lamd_jax.ops import conv
from lamd_jax.training import flops


@pytest.mark.parametrize(
  "x, kernel",
  [
    ((16, 1, 8, 8, 96), (1, 3, 3, 96, 96)),  # few pixels
    ((1, 16, 64, 64, 8), (1, 3, 3, 8, 16)),  # large maps, a form of their own on CPUs
    ((1, 8, 64, 64, 8), (3, 3, 3, 8, 16)),
    ((2, 4, 8, 8, 16), (3, 1, 1, 16, 16)),
  ],
)
def test_a_convolution_s_gradient_costs_twice_the_convolution(x, kernel):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (x, kernel)]
  pad = tuple((k // 2, k // 2) for k in kernel[:3])
  forward = lambda x, kernel: conv.conv(x, kernel, (1, 1, 1), pad).sum()
  # Two operations for each output, tap and input channel; x and kernel take as many.
  once = 2 * x[0] * x[1] * x[2] * x[3] * kernel[-1]
  for size in kernel[:-1]:
    once *= size
  assert flops.count(forward, *arrays) == once
  assert flops.count(jax.grad(forward, (0, 1)), *arrays) == 3 * once
