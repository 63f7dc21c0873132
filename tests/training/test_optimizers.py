# SPDX-License-Identifier: Apache-2.0
"""Schedules, clipping and the moving average's decay against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_stage

from lamd_jax.errors import ConfigError
from lamd_jax.training import optimizers


def _optim(**changes):
  return toy_stage.config(**changes).optim.toy


def test_cosine_with_warmup():
  optim = _optim(
    schedule="cosine", learning_rate=2.0, warmup=4, steps=14, final_fraction=0.1
  )
  rate = optimizers.learning_rate(optim)
  warm = [rate(n) for n in range(4)]
  np.testing.assert_allclose(warm, [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
  # Half way down the cosine, at its end, and beyond.
  np.testing.assert_allclose(rate(9), 2.0 * 0.55, rtol=1e-6)
  np.testing.assert_allclose([rate(14), rate(99)], [0.2, 0.2], rtol=1e-6)


def test_constant_without_warmup_is_the_rate_from_the_first_update():
  rate = optimizers.learning_rate(_optim(schedule="constant", warmup=0))
  np.testing.assert_allclose([rate(0), rate(10**6)], 1e-2, rtol=1e-6)


def test_unknown_schedule_names_the_choices():
  with pytest.raises(ConfigError, match="'linear'.*constant, cosine"):
    optimizers.learning_rate(_optim(schedule="linear"))


def test_first_state_is_what_optax_would_make():
  optimizer = optimizers.make(_optim())
  params, _ = toy_stage.ToyStage().init(0)
  expected = optimizer.init(params["generator"])
  found = optimizers.init(optimizer, params["generator"])
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("limit, norm", [(0.0, 5.0), (10.0, 5.0), (2.5, 2.5)])
def test_clip_to_global_norm(limit, norm):
  gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}  # norm 5
  clipped = optimizers.clip(gradients, optimizers.global_norm(gradients), limit)
  np.testing.assert_allclose(optimizers.global_norm(clipped), norm, rtol=1e-6)
  np.testing.assert_allclose(clipped["b"] / clipped["a"], 4 / 3, rtol=1e-6)


def test_zero_gradients_are_not_divided_by_their_norm():
  zero = {"a": jnp.zeros(3)}
  clipped = optimizers.clip(zero, optimizers.global_norm(zero), 1.0)
  np.testing.assert_array_equal(clipped["a"], np.zeros(3))


def test_ema_decay_warms_up():
  optim = _optim(ema_decay=0.99)
  # (1+n)/(10+n) at the first update is 2/11, as in LVDM's LitEma.
  np.testing.assert_allclose(optimizers.ema_decay(optim, 1), 2 / 11, rtol=1e-6)
  np.testing.assert_allclose(optimizers.ema_decay(optim, 10**5), 0.99, rtol=1e-6)
  cold = _optim(ema_decay=0.99, ema_warmup=False)
  np.testing.assert_allclose(optimizers.ema_decay(cold, 1), 0.99, rtol=1e-6)


def test_orthogonalise_flattens_the_spectrum():
  # Five Newton-Schulz rounds with Jordan et al.'s coefficients: about [0.7, 1.2].
  generator = np.random.default_rng(0)
  for shape in ((3, 3, 3, 4, 16), (12, 40)):
    x = jnp.asarray(generator.standard_normal(shape), jnp.float32)
    flat = np.asarray(optimizers.orthogonalise(x)).reshape(-1, shape[-1])
    values = np.linalg.svd(flat, compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3
    # It keeps the singular vectors: a positive inner product with x, and its scale
    # does not matter.
    assert (flat * np.asarray(x).reshape(flat.shape)).sum() > 0
    np.testing.assert_allclose(
      optimizers.orthogonalise(100 * x).reshape(flat.shape), flat, atol=1e-4
    )


def test_orthogonalise_is_five_rounds():
  x = 100 * np.random.default_rng(2).standard_normal((2, 4, 6)).astype(np.float32)
  # The rounds written out in float64.
  m = x.reshape(8, 6).astype(np.float64).T
  m /= np.linalg.norm(m)
  for _ in range(5):
    square = m @ m.T
    m = 3.4445 * m + (-4.775 * square + 2.0315 * square @ square) @ m
  np.testing.assert_allclose(optimizers.orthogonalise(x).reshape(8, 6), m.T, atol=2e-5)


def test_muon_moves_kernels_by_rms_and_vectors_as_adam():
  generator = np.random.default_rng(1)
  gradients = {
    "kernel": jnp.asarray(generator.standard_normal((3, 3, 3, 8, 16)), jnp.float32),
    "bias": jnp.asarray(generator.standard_normal(16), jnp.float32),
  }
  muon = optimizers.scale_by_muon(0.9, 0.99, 1e-8)
  adam = optax.scale_by_adam(0.9, 0.99, 1e-8)
  ours, _ = muon.update(gradients, muon.init(gradients))
  theirs, _ = adam.update(gradients, adam.init(gradients))
  np.testing.assert_array_equal(ours["bias"], theirs["bias"])
  # Liu et al. (arXiv 2502.16982): 0.2 where all singular values are 1.
  assert 0.13 < float(jnp.sqrt(jnp.mean(ours["kernel"] ** 2))) < 0.26
