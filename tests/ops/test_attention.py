# SPDX-License-Identifier: Apache-2.0
"""Attention against numbers of the reference implementation and against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import fill
from lamd_jax.ops import attention


@pytest.fixture(scope="module")
def recorded(fixtures):
  with np.load(fixtures / "lvdm" / "lvdm_ops.npz", allow_pickle=False) as data:
    return dict(data)


def _heads(qkv):
  """[N,3*H*D,T] with q, k, v one after the other -> three [N,T,H,D]; H 4, D 6."""
  return qkv.reshape(3, 3, 4, 6, 5).transpose(1, 0, 4, 2, 3)


def _channels(out):
  return np.asarray(out).transpose(0, 2, 3, 1).reshape(3, 24, 5)


def test_relative_positions_as_recorded(recorded):
  # Table of reach 2 for 5 steps: distances 3 and 4 are clipped.
  table = fill.fill("embeddings_table", (5, 6), norm_scale=False)
  positions = attention.relative_positions(table, 5, 5)
  np.testing.assert_array_equal(positions, recorded["relpos_u6_m2_q5k5"])


def test_relative_positions_between_different_lengths():
  table = np.arange(5.0)[:, None]  # reach 2
  positions = attention.relative_positions(table, 2, 4)[..., 0]
  np.testing.assert_array_equal(positions, [[2, 3, 4, 4], [1, 2, 3, 4]])


def test_plain_attention_as_recorded(recorded):
  q, k, v = _heads(recorded["qkv"])
  out = attention.attention(q, k, v, 6**-0.5)
  np.testing.assert_allclose(_channels(out), recorded["qkv_attn_norp"], atol=2e-6)


def test_relative_attention_as_recorded_is_the_transposed_form(recorded):
  q, k, v = _heads(recorded["qkv"])

  def run(transposed):
    bias = attention.position_bias(
      q, recorded["k_rp"], 6**-0.25, transposed=transposed
    )
    positions = recorded["v_rp"]
    return _channels(
      attention.attention(q, k, v, 6**-0.5, bias=bias, value_positions=positions)
    )

  np.testing.assert_allclose(run(True), recorded["qkv_attn_rp"], atol=2e-6)
  assert np.abs(run(False) - recorded["qkv_attn_rp"]).max() > 0.1


def test_corrected_bias_is_equation_4_of_shaw():
  rng = np.random.default_rng(0)
  q = rng.standard_normal((1, 3, 2, 4)).astype(np.float32)
  positions = rng.standard_normal((3, 3, 4)).astype(np.float32)
  bias = attention.position_bias(q, positions, 0.5, transposed=False)
  expected = 0.5 * q[0, 1, 1] @ positions[1, 2]  # query 1, head 1, key 2
  np.testing.assert_allclose(bias[0, 1, 1, 2], expected, rtol=1e-5)


def test_softmax_is_in_float32():
  # In bfloat16 the two logits, 1 and 1 + 2^-9, would be equal.
  bias = jnp.array([1.0, 1.0 + 2.0**-9])[None, None, None]
  zero = jnp.zeros((1, 1, 1, 1), jnp.bfloat16)
  keys = jnp.zeros((1, 2, 1, 1), jnp.bfloat16)
  values = jnp.array([-256.0, 256.0], jnp.bfloat16).reshape(1, 2, 1, 1)
  out = attention.attention(zero, keys, values, 1.0, bias=bias)
  assert out.dtype == jnp.bfloat16
  # tanh(2^-10) * 256 = 0.25, coarse because the weights are rounded for the product.
  assert abs(float(out[0, 0, 0, 0]) - 0.25) < 0.5


def test_products_of_bfloat16_are_not_rounded_before_the_softmax():
  # Logits of 16 and 16 + 2^-4, which bfloat16 makes equal.
  q = jnp.array([16.0, 1.0], jnp.bfloat16).reshape(1, 1, 1, 2)
  k = jnp.array([[1.0, 0.0], [1.0, 2.0**-4]], jnp.bfloat16).reshape(1, 2, 1, 2)
  v = jnp.array([[-1.0, 0.0], [1.0, 0.0]], jnp.bfloat16).reshape(1, 2, 1, 2)
  run = lambda q: attention.attention(q, k, v, 1.0)[0, 0, 0, 0]
  assert float(run(q)) == pytest.approx(np.tanh(2.0**-5), rel=0.1)


def test_gradients_are_those_of_plain_products():
  rng = np.random.default_rng(1)
  q, k, v, seen = (rng.standard_normal((2, 5, 3, 4), np.float32) for _ in range(4))

  def plain(q, k, v):
    weights = jax.nn.softmax(0.3 * jnp.einsum("nqhd,nkhd->nhqk", q, k))
    return (seen * jnp.einsum("nhqk,nkhd->nqhd", weights, v)).sum()

  ours = lambda *qkv: (seen * attention.attention(*qkv, 0.3)).sum()
  for a, b in zip(*(jax.grad(f, (0, 1, 2))(q, k, v) for f in (ours, plain))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
