# SPDX-License-Identifier: Apache-2.0
"""Resizing matrices against numbers of torch 2.13's interpolate, and properties."""

import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.ops import interpolation

# torch.nn.functional.interpolate of [3, 1, 4, 1, 5] to 8 and to 3 pixels, float64.
SIGNAL = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
RECORDED = {
  "bilinear": (
    [3, 2.125, 1.1875, 3.0625, 3.0625, 1.1875, 3.25, 5],
    [2.333333333333333, 4, 3.666666666666667],
  ),
  "bilinear_corners": (
    [3, 1.857142857142857, 1.4285714285714286, 3.142857142857143,
     3.142857142857143, 1.4285714285714286, 2.7142857142857144, 5],
    [3, 4, 5],
  ),
  "cubic": (
    [3.1856689453125, 1.89813232421875, 1.07489013671875, 3.35455322265625,
     3.25384521484375, 0.99249267578125, 3.03851318359375, 5.371337890625],
    [2.2037037037037037, 4, 3.5740740740740740],
  ),
}  # fmt: skip
FUNCTIONS = {
  "bilinear": interpolation.bilinear,
  "bilinear_corners": interpolation.bilinear_corners,
  "cubic": interpolation.cubic,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_are_those_of_torch(name):
  for size, wanted in zip((8, 3), RECORDED[name]):
    found = FUNCTIONS[name](5, size) @ SIGNAL
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_sum_to_one_and_the_same_size_changes_nothing(name):
  for length, size in ((5, 9), (9, 5), (2, 7), (7, 2), (1, 3)):
    matrix = FUNCTIONS[name](length, size)
    assert matrix.shape == (size, length)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
  np.testing.assert_array_equal(FUNCTIONS[name](6, 6), np.eye(6))


def test_rows_and_columns_are_not_mixed_up():
  x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
  rows, columns = interpolation.bilinear(4, 6), interpolation.cubic(5, 3)
  found = interpolation.resize(jnp.asarray(x), rows, columns)
  assert found.shape == (2, 6, 3, 3) and found.dtype == jnp.float32
  wanted = rows @ x[1, :, :, 2] @ columns.T
  np.testing.assert_allclose(found[1, :, :, 2], wanted, atol=1e-5)
