# SPDX-License-Identifier: Apache-2.0
"""The small text encoder: masks, order, gradients, and a block worked out in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.networks import text_encoder
from lamd_jax.nn import initializers

NETWORK = text_encoder.TextEncoder(20, 8, 2, 2, 6, pad=0)
TOKENS = np.array([[1, 5, 7, 2, 0, 0], [1, 9, 9, 4, 3, 2]], np.int32)


@pytest.fixture(scope="module")
def params():
  return initializers.initialize(NETWORK, 0, TOKENS)["params"]


def _apply(params, tokens, network=NETWORK):
  return np.asarray(network.apply({"params": params}, tokens))


def _norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def _dense(x, p):
  return x @ p["kernel"] + p["bias"]


def _by_hand(params, tokens):
  """The network for one text, in float64, head by head, without padding at all."""
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  x = params["tokens"][tokens] + params["positions"][: len(tokens)]
  for i in range(2):
    p = params[f"block_{i}"]
    h = _norm(x, p["attention_norm"])
    q, k, v = (_dense(h, p[name]) for name in "qkv")
    heads = []
    for start in (0, 4):
      part = slice(start, start + 4)
      weights = np.exp(q[:, part] @ k[:, part].T / 2)
      heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
    x = x + _dense(np.concatenate(heads, -1), p["out"])
    h = _dense(_norm(x, p["dense_norm"]), p["dense_0"])
    h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    x = x + _dense(h, p["dense_1"])
  return _norm(x, params["final_norm"])


def test_equals_the_network_written_out(params):
  # Biases and norms away from what they start as.
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: a + 0.3 * rng.standard_normal(a.shape), params)
  with jax.default_matmul_precision("highest"):
    out = _apply(params, TOKENS)
  assert out.dtype == np.float32 and out.shape == (2, 6, 8)
  np.testing.assert_allclose(out[0, :4], _by_hand(params, TOKENS[0, :4]), atol=2e-5)
  np.testing.assert_allclose(out[1], _by_hand(params, TOKENS[1]), atol=2e-5)


def test_padding_is_not_seen_but_later_words_are(params):
  short = _apply(params, TOKENS[:1, :4])
  np.testing.assert_allclose(_apply(params, TOKENS)[:1, :4], short, atol=1e-6)
  other = TOKENS.copy()
  other[1, 4] = 11
  difference = np.abs(_apply(params, other) - _apply(params, TOKENS))
  assert (difference[1].max(-1) > 1e-4).all() and not difference[0].any()


def test_order_matters(params):
  other = TOKENS[:, [0, 2, 1, 3, 4, 5]]
  assert np.abs(_apply(params, other)[0, 0] - _apply(params, TOKENS)[0, 0]).max() > 1e-6


def test_every_parameter_in_use_learns(params):
  target = np.random.default_rng(0).standard_normal((2, 6, 8))

  def loss(params):
    return jnp.square(NETWORK.apply({"params": params}, TOKENS) - target).sum()

  grads = dict(jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)))
  for path, grad in grads.items():
    name = jax.tree_util.keystr(path)
    assert np.isfinite(grad).all()
    # Softmax does not see what a key's bias adds to all logits of a row.
    if "['k']['bias']" not in name:
      assert np.abs(grad).max() > 1e-6, name


def test_a_text_of_padding_is_finite(params):
  assert np.isfinite(_apply(params, np.zeros((1, 6), np.int32))).all()


def test_half_precision_gives_float32_close_by(params):
  out = _apply(params, TOKENS, NETWORK.clone(dtype=jnp.bfloat16))
  assert out.dtype == np.float32
  assert 1e-4 < np.abs(out - _apply(params, TOKENS)).max() < 0.1


def test_bad_tokens_are_seen(params):
  with pytest.raises(ValueError, match="7 tokens.*for 6"):
    _apply(params, np.zeros((1, 7), np.int32))
  assert np.isnan(_apply(params, np.array([[1, 20, 2]]))).any()
