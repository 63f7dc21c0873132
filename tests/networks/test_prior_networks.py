# SPDX-License-Identifier: Apache-2.0
"""The prior's networks: what they read, what the null replaces, how large they are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.networks import prior
from lamd_jax.nn import initializers

NETWORK = prior.PriorTransformer(embedding=6, width=8, layers=1, heads=2, length=3)


@pytest.fixture(scope="module")
def inputs():
  draw = np.random.default_rng(0)
  normal = lambda *shape: draw.standard_normal(shape).astype(np.float32)
  return normal(2, 6), np.array([3.0, 70.0], np.float32), normal(2, 6), normal(2, 3, 5)


@pytest.fixture(scope="module")
def params(inputs):
  return initializers.initialize(NETWORK, 0, *inputs)["params"]


def _denoise(params, z, t, pooled, sequence, keep=None):
  context = NETWORK.apply({"params": params}, pooled, sequence, method="text")
  return np.asarray(
    NETWORK.apply({"params": params}, z, t, context, keep, method="denoise")
  )


def test_the_answer_reads_every_input(params, inputs):
  out = _denoise(params, *inputs)
  assert out.shape == (2, 6) and out.dtype == np.float32
  for k, value in enumerate(inputs):
    changed = list(inputs)
    changed[k] = value.copy()
    changed[k][0] += 0.5
    difference = np.abs(_denoise(params, *changed) - out)
    assert difference[0].max() > 1e-5, k
    assert difference[1].max() < 1e-6, k  # the other row


def test_a_row_that_is_not_kept_sees_no_text(params, inputs):
  z, t, pooled, sequence = inputs
  out = _denoise(params, *inputs)
  np.testing.assert_allclose(
    _denoise(params, *inputs, jnp.ones(2)), out, atol=1e-6
  )
  keep = jnp.array([0.0, 1.0])
  dropped = _denoise(params, *inputs, keep)
  assert np.abs(dropped[0] - out[0]).max() > 1e-4
  np.testing.assert_allclose(dropped[1], out[1], atol=1e-6)
  other = _denoise(params, z, t, pooled + 1, sequence - 1, keep)
  np.testing.assert_allclose(other[0], dropped[0], atol=1e-6)


def test_earlier_tokens_do_not_see_later_ones(inputs):
  """The states before the query stay what they are when the query changes."""
  network = NETWORK.clone(layers=2)
  params = initializers.initialize(network, 0, *inputs)["params"]

  def states(params):
    _, found = network.apply(
      {"params": params}, *inputs, capture_intermediates=True, mutable="intermediates"
    )
    return np.asarray(found["intermediates"]["block_1"]["__call__"][0])

  before = states(params)
  after = states({**params, "query": params["query"] + 1})
  np.testing.assert_allclose(after[:, :-1], before[:, :-1], atol=1e-6)
  assert np.abs(after[:, -1] - before[:, -1]).max() > 1e-3


def test_the_size_that_is_trained_on_laion():
  """12 layers of 768: a block has 12 w^2 + 13 w parameters (attention 4 w^2 + 4 w,
  network 8 w^2 + 5 w, norms 4 w)."""
  network = prior.PriorTransformer(768, 768, 12, 12, 77)
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  params = initializers.shapes(
    network, shape(1, 768), shape(1), shape(1, 768), shape(1, 77, 768)
  )["params"]
  count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
  w = 768
  assert count(params["block_0"]) == 12 * w**2 + 13 * w
  # Three inputs and the head; the time network of w/4 inputs; norm, query; tables.
  rest = 4 * (w**2 + w) + (w // 4 * w + w) + (w**2 + w) + 3 * w + (78 + 81) * w
  assert count(params) == 12 * (12 * w**2 + 13 * w) + rest


def test_the_regressor_starts_as_the_identity():
  text = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
  network = prior.Regressor(8)
  params = initializers.initialize(network, 0, text)
  np.testing.assert_array_equal(network.apply(params, text), text)
