"""The block against its own definition in NumPy, and who sees whom."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.nn.spatial_transformer import SpatialTransformer

X = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 64)).astype(np.float32)
CONTEXT = np.random.default_rng(1).normal(size=(2, 5, 24)).astype(np.float32)


def build(context=CONTEXT, heads=2, head_channels=0):
  block = SpatialTransformer(heads, head_channels)
  variables = initializers.initialize(block, 0, X, context, mode="video")
  rng = np.random.default_rng(2)
  fill = lambda x: (x + 0.2 * rng.standard_normal(x.shape)).astype(np.float32)
  filled = jax.tree.map(fill, variables)  # or the zero output layer hides everything
  return block, variables, filled


def test_it_starts_as_the_identity():
  block, variables, _ = build()
  np.testing.assert_array_equal(block.apply(variables, X, CONTEXT, "video"), X)


def _numpy(p, x, context, heads):
  """One frame x [P,C]; written from the paper's appendix, float64."""

  def norm(x, axis, epsilon):
    mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    return (x - mean) / np.sqrt(var + epsilon)

  def layer(name, x):
    return norm(x, -1, 1e-5) * p[name]["scale"] + p[name]["bias"]

  def attend(name, x, y):
    q, k, v = x @ p[name]["q"]["kernel"], y @ p[name]["k"]["kernel"], y @ p[name]["v"]["kernel"]
    out, width = [], q.shape[-1] // heads
    for i in range(heads):
      part = slice(i * width, (i + 1) * width)
      logits = q[:, part] @ k[:, part].T / math.sqrt(width)
      weights = np.exp(logits - logits.max(-1, keepdims=True))
      out.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
    return np.concatenate(out, -1) @ p[name]["out"]["kernel"] + p[name]["out"]["bias"]

  dense = lambda tree, x: x @ tree["kernel"] + tree["bias"]
  groups = x.reshape(len(x), 32, -1)
  y = norm(groups, (0, 2), 1e-6).reshape(x.shape)
  y = dense(p["in"], y * p["norm"]["scale"] + p["norm"]["bias"])
  z = layer("self_attention_norm", y)
  y = y + attend("self_attention", z, z)
  if context is not None:
    y = y + attend("cross_attention", layer("cross_attention_norm", y), context)
  value, gate = np.split(dense(p["feed_forward"]["in"], layer("feed_forward_norm", y)), 2, -1)
  gelu = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
  y = y + dense(p["feed_forward"]["out"], value * gelu)
  return x + dense(p["out"], y)


def test_numbers_with_and_without_a_context():
  for context in (CONTEXT, None):
    block, _, variables = build(context)
    found = np.asarray(block.apply(variables, X, context, "video"))
    p = jax.tree.map(np.float64, variables["params"])
    for b, t in ((0, 0), (1, 2)):
      rows = np.float64(X[b, t].reshape(-1, 64))
      wanted = _numpy(p, rows, None if context is None else context[b], 2)
      np.testing.assert_allclose(found[b, t].reshape(-1, 64), wanted, rtol=1e-3, atol=2e-3)
  assert not any("cross" in name for name in variables["params"])


def test_frames_do_not_see_each_other():
  block, _, variables = build()
  other = X.copy()
  other[:, 0] += 1
  run = jax.jit(lambda x: block.apply(variables, x, CONTEXT, "video"))
  np.testing.assert_array_equal(run(X)[:, 1:], run(other)[:, 1:])


def test_channels_a_head_decide_the_heads_and_q_k_v_have_no_bias():
  block, _, variables = build(head_channels=16)
  four, _, _ = build(heads=4)
  run = lambda block: np.asarray(block.apply(variables, jnp.asarray(X), CONTEXT, "video"))
  np.testing.assert_array_equal(run(block), run(four))
  assert np.abs(run(block) - run(build()[0])).max() > 1e-3
  for name in ("self_attention", "cross_attention"):
    part = variables["params"][name]
    assert {k for k in part if "bias" in part[k]} == {"out"}
