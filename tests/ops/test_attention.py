# SPDX-License-Identifier: Apache-2.0
"""Attention against numbers of the reference implementation and against plain loops."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from lamd_jax import ahead
from lamd_jax.interchange import fill
from lamd_jax.ops import attention
from lamd_jax.ops import attention_row_by_row
from lamd_jax.ops import attention_rows_last
from lamd_jax.ops import axes
from lamd_jax.training import sharding


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
    positions = attention.Positions(
      recorded["k_rp"], recorded["v_rp"], 6**-0.25, transposed
    )
    return _channels(attention.attention(q, k, v, 6**-0.5, positions=positions))

  np.testing.assert_allclose(run(True), recorded["qkv_attn_rp"], atol=2e-6)
  assert np.abs(run(False) - recorded["qkv_attn_rp"]).max() > 0.1


def _with_positions(rows):
  """Queries, keys, values [rows,3,2,4] and positions [3,3,4]."""
  rng = np.random.default_rng(0)
  qkv = [rng.standard_normal((rows, 3, 2, 4), np.float32) for _ in range(3)]
  return qkv, [rng.standard_normal((3, 3, 4), np.float32) for _ in range(2)]


def test_corrected_positions_are_equations_3_and_4_of_shaw():
  (q, k, v), (keys, values) = _with_positions(1)
  positions = attention.Positions(keys, values, 0.3, False)
  found = attention.attention(q, k, v, 0.5, positions=positions)
  query = q[0, 1, 1]  # query 1, head 1
  logits = [0.5 * query @ k[0, j, 1] + 0.3 * query @ keys[1, j] for j in range(3)]
  weights = np.exp(logits) / np.exp(logits).sum()
  expected = sum(weights[j] * (v[0, j, 1] + values[1, j]) for j in range(3))
  np.testing.assert_allclose(found[0, 1, 1], expected, rtol=1e-5)


@pytest.mark.parametrize("transposed", [None, False, True])
def test_both_forms_are_one_function(transposed):
  """Values and all gradients, in float32."""
  qkv, tables = _with_positions(5)
  seen = np.random.default_rng(1).standard_normal(qkv[0].shape, np.float32)
  tables = tables if transposed is not None else [None, None]
  how = dict(scale=0.5, position_scale=0.3, transposed=bool(transposed))

  def rows_last(qkv, tables):
    return attention_rows_last.attention(*qkv, *tables, **how)

  def matrices(qkv, tables):
    positions = None
    if tables[0] is not None:
      positions = attention.Positions(*tables, 0.3, transposed)
    return attention.attention(*qkv, 0.5, positions=positions)

  np.testing.assert_allclose(
    rows_last(qkv, tables), matrices(qkv, tables), rtol=1e-5, atol=1e-6
  )
  ours, theirs = (
    jax.tree.leaves(jax.grad(lambda *x: (seen * f(*x)).sum(), (0, 1))(qkv, tables))
    for f in (rows_last, matrices)
  )
  assert len(ours) == (3 if transposed is None else 5)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ["platform", "rows", "length", "products", "loops"],
  [
    ("tpu", 1024, 4, 0, 0), ("tpu", 1023, 4, 2, 0), ("tpu", 1024, 33, 2, 1),
    ("tpu", 5, 1024, 2, 1), ("tpu", 4, 1024, 2, 0),
    *((other, *shape, 2, 0) for other in ("cpu", "cuda")
      for shape in ((1024, 4), (5, 1024))),
  ],
)  # fmt: skip
def test_the_platform_of_the_program_chooses_the_form(
  platform, rows, length, products, loops
):
  x = jax.ShapeDtypeStruct((rows, length, 2, 4), jnp.bfloat16)
  run = jax.jit(lambda q, k, v: attention.attention(q, k, v, 0.5))
  text = run.trace(x, x, x).lower(lowering_platforms=(platform,)).as_text()
  assert text.count("dot_general") == products
  assert text.count("stablehlo.while") == loops


def _by_rows(queries, keys):
  """Queries, keys, values and what is seen of the result; 16 rows."""
  rng = np.random.default_rng(0)
  shape = lambda length: (16, length, 2, 4)
  lengths = (queries, keys, keys, queries)
  return [rng.standard_normal(shape(n), np.float32) for n in lengths]


@pytest.mark.parametrize(["queries", "keys"], [(6, 6), (5, 9)])
@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_row_by_row_is_the_same_function(monkeypatch, queries, keys, at_once):
  # One row: 5 or 6 queries, 2 heads, a tile of 128 keys, 4 bytes.
  monkeypatch.setattr(attention_row_by_row, "_AT_ONCE", at_once * 4 * queries * 2 * 128)
  *qkv, seen = _by_rows(queries, keys)
  ours = lambda *qkv: attention_row_by_row.attention(*qkv, 0.5)
  theirs = lambda *qkv: attention.attention(*qkv, 0.5)
  np.testing.assert_allclose(ours(*qkv), theirs(*qkv), rtol=1e-5, atol=1e-6)
  found = [
    jax.grad(lambda *x: (seen * f(*x)).sum(), (0, 1, 2))(*qkv) for f in (ours, theirs)
  ]
  for a, b in zip(*found, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cut", ["dp", "frames", "data=2,fsdp=2,tensor=2"])
def test_each_device_goes_through_its_own_rows(monkeypatch, cut):
  monkeypatch.setattr(attention_row_by_row, "_AT_ONCE", 0)  # a row at once
  mesh = sharding.make_mesh(cut)
  *qkv, seen = _by_rows(6, 6)
  f = lambda *x: (x[3] * attention_row_by_row.attention(*x[:3], 0.5)).sum(1)
  g = lambda *x: (f(*x), jax.vjp(f, *x)[1](x[3].sum(1))[:3])
  rows = NamedSharding(mesh, PartitionSpec(axes.MEANING["rows"], None, "tensor"))
  with jax.set_mesh(mesh):
    placed = [jax.device_put(x, rows) for x in (*qkv, seen)]
    program = jax.jit(g).lower(*placed).compile()
    found = program(*placed)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(g(*qkv, seen)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  assert ahead.collectives(program.as_text()) == {}


def test_what_is_computed_anew_is_the_backward_pass_alone():
  """With rematerialisation that keeps convolutions, exp runs twice and not three times."""
  *qkv, _ = _by_rows(6, 6)
  f = lambda *x: attention_row_by_row.attention(*x, 0.5)
  policy = jax.checkpoint_policies.save_only_these_names("conv")
  for how, times in ({"policy": policy}, 2), ({}, 3):
    wrapped = jax.checkpoint(f, **how)
    program = jax.make_jaxpr(jax.grad(lambda *x: wrapped(*x).sum(), (0, 1, 2)))(*qkv)
    assert str(program).count(" exp ") == times


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
