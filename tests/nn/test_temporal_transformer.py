# SPDX-License-Identifier: Apache-2.0
"""The block against its own definition in NumPy, its start, and its limit of frames."""

import math

import jax
import numpy as np
import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.nn import initializers
from lamd_jax.nn.temporal_transformer import TemporalTransformer

X = np.random.default_rng(0).standard_normal((2, 3, 2, 4, 64)).astype(np.float32)
CONTEXT = np.random.default_rng(1).standard_normal((2, 5, 24)).astype(np.float32)


def build(attends=True, rows=6):
  block = TemporalTransformer(2, rows, attends)
  variables = initializers.initialize(block, 0, X, CONTEXT)
  rng = np.random.default_rng(2)
  fill = lambda a: (a + 0.2 * rng.standard_normal(a.shape)).astype(np.float32)
  return block, variables, jax.tree.map(fill, variables)


def test_it_starts_as_the_identity():
  block, variables, _ = build()
  np.testing.assert_array_equal(block.apply(variables, X, CONTEXT), X)


def _normed(x, axis, epsilon):
  mean, variance = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
  return (x - mean) / np.sqrt(variance + epsilon)


def _pixel(p, x, context, heads=2):
  """One pixel's frames [T,C], in and out of the projections; float64."""

  def attend(name, x, y):
    q, k, v = (a @ p[name][n]["kernel"] for n, a in (("q", x), ("k", y), ("v", y)))
    out, width = [], q.shape[-1] // heads
    for i in range(heads):
      part = slice(i * width, (i + 1) * width)
      logits = q[:, part] @ k[:, part].T / math.sqrt(width)
      weights = np.exp(logits - logits.max(-1, keepdims=True))
      out.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
    return np.concatenate(out, -1) @ p[name]["out"]["kernel"] + p[name]["out"]["bias"]

  layer = lambda n, x: _normed(x, -1, 1e-5) * p[n]["scale"] + p[n]["bias"]
  dense = lambda tree, x: x @ tree["kernel"] + tree["bias"]
  y = dense(p["in"], x) + p["frame_positions"][: len(x)]
  z = layer("self_attention_norm", y)
  y = y + attend("self_attention", z, z)
  if context is not None:
    y = y + attend("cross_attention", layer("cross_attention_norm", y), context)
  wide = dense(p["feed_forward"]["in"], layer("feed_forward_norm", y))
  value, gate = np.split(wide, 2, -1)
  gelu = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
  return dense(p["out"], y + dense(p["feed_forward"]["out"], value * gelu))


@pytest.mark.parametrize("attends", [True, False])
def test_numbers_with_and_without_attention_to_the_context(attends):
  block, _, variables = build(attends)
  found = np.asarray(block.apply(variables, X, CONTEXT))
  p = jax.tree.map(np.float64, variables["params"])
  groups = _normed(np.float64(X).reshape(2, -1, 32, 2), (1, 3), 1e-6)
  y = groups.reshape(X.shape) * p["norm"]["scale"] + p["norm"]["bias"]
  for b, i, j in ((0, 0, 0), (1, 1, 2)):
    wanted = X[b, :, i, j] + _pixel(p, y[b, :, i, j], CONTEXT[b] if attends else None)
    np.testing.assert_allclose(found[b, :, i, j], wanted, rtol=1e-3, atol=2e-3)
  assert attends == any("cross" in name for name in variables["params"])


def test_frames_know_their_place():
  block, _, variables = build(attends=False)
  run = lambda x: np.asarray(block.apply(variables, x, None))
  # Without positions the order of frames would be of no effect on each of them.
  turned = run(X[:, ::-1])[:, ::-1]
  assert np.abs(turned - run(X)).max() > 1e-2
  variables["params"]["frame_positions"][:] = 0
  np.testing.assert_allclose(run(X[:, ::-1])[:, ::-1], run(X), rtol=1e-4, atol=1e-4)


def test_more_frames_than_positions_are_one_line():
  block, variables, _ = build(rows=3)
  assert variables["params"]["frame_positions"].shape == (3, 64)
  longer = np.concatenate([X, X[:, :1]], 1)
  with pytest.raises(ConfigError, match="4 frames; .* at most 3 frames.*frame_positions"):
    block.apply(variables, longer, CONTEXT)
