# SPDX-License-Identifier: Apache-2.0
"""Packing is a permutation, keeps arrays where they lie, and meets no other device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lamd_jax.training import bundles
from lamd_jax.training import sharding

TREE = {
  "a": np.arange(24, dtype=np.float32).reshape(3, 8),
  "b": {"c": np.arange(5, dtype=np.float32), "d": np.float32(7)},
  "e": np.arange(64, dtype=np.float32).reshape(16, 4) + 100,
  "large": np.arange(128, dtype=np.float32) + 1000,
}


def _plan():
  mesh = sharding.make_mesh("fsdp", jax.devices()[:4])
  shardings = sharding.state_shardings(TREE, mesh, min_bytes=16)
  plan = bundles.Bundles(TREE, shardings, large=100)
  return plan, sharding.place(TREE, shardings), shardings


def test_unpack_inverts_pack_and_keeps_every_number():
  plan, tree, shardings = _plan()
  packed = jax.jit(plan.pack)(tree)
  # a and e are cut over the devices, b.c and b.d are whole, large is alone.
  sizes = sorted(x.size for x in packed.values())
  assert sizes == [6, 24 + 64, 128]
  everything = np.concatenate([np.ravel(x) for x in packed.values()])
  expected = np.concatenate([np.ravel(x) for x in jax.tree.leaves(TREE)])
  np.testing.assert_array_equal(np.sort(everything), np.sort(expected))
  back = jax.jit(lambda t: plan.unpack(plan.pack(t)), out_shardings=shardings)(tree)
  jax.tree.map(np.testing.assert_array_equal, back, TREE)


def test_no_bundle_has_more_than_its_number_of_members():
  tree = [np.full(i + 1, i, np.float32) for i in range(bundles.MEMBERS + 2)]
  mesh = sharding.make_mesh("dp", jax.devices()[:1])
  plan = bundles.Bundles(tree, sharding.state_shardings(tree, mesh))
  first, second = plan.pack(tree).values()
  np.testing.assert_array_equal(first, np.concatenate(tree[:-2]))
  np.testing.assert_array_equal(second, np.concatenate(tree[-2:]))


def test_packing_compiles_to_no_collective():
  plan, tree, shardings = _plan()
  double = lambda t: plan.unpack(jax.tree.map(lambda x: 2 * x, plan.pack(t)))
  step = jax.jit(double, in_shardings=(shardings,), out_shardings=shardings)
  text = step.lower(tree).compile().as_text()
  for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert name not in text, name


def test_optimizer_state_is_packed_where_it_is_like_the_parameters():
  plan, tree, _ = _plan()
  state = optax.adamw(1e-3).init(tree)
  packed = plan.pack_state(state)
  assert set(packed[0].mu) == set(plan.pack(tree))
  assert packed[0].count.shape == ()
  chained = plan.unpack_state(packed)
  assert jax.tree.structure(chained) == jax.tree.structure(state)
  moved = jax.tree.map(lambda a, b: jnp.array_equal(a, b), chained, state)
  assert all(jax.tree.leaves(moved))
