# SPDX-License-Identifier: Apache-2.0
"""The layer against its definition in NumPy, and its start."""

import jax
import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.nn.temporal_convolution import TemporalConvolution

X = np.random.default_rng(0).standard_normal((2, 4, 2, 3, 64)).astype(np.float32)


def test_it_starts_as_the_identity():
  variables = initializers.initialize(TemporalConvolution(), 0, X)
  np.testing.assert_array_equal(TemporalConvolution().apply(variables, X), X)


def test_numbers():
  variables = initializers.initialize(TemporalConvolution(), 0, X)
  rng = np.random.default_rng(1)
  fill = lambda a: (a + 0.2 * rng.standard_normal(a.shape)).astype(np.float32)
  variables = jax.tree.map(fill, variables)
  p = jax.tree.map(np.float64, variables["params"])
  groups = np.float64(X).reshape(2, -1, 32, 2)
  mean = groups.mean((1, 3), keepdims=True)
  groups = (groups - mean) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
  h = groups.reshape(X.shape) * p["norm"]["scale"] + p["norm"]["bias"]
  h = np.pad(h / (1 + np.exp(-h)), [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
  kernel = p["conv"]["kernel"]
  assert kernel.shape == (3, 1, 1, 64, 64)
  taps = sum(h[:, i : i + 4] @ kernel[i, 0, 0] for i in range(3))
  found = TemporalConvolution().apply(variables, X)
  np.testing.assert_allclose(found, X + taps + p["conv"]["bias"], rtol=1e-4, atol=1e-4)
