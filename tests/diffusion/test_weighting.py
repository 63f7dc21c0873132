# SPDX-License-Identifier: Apache-2.0
"""The loss by hand, and one min-SNR objective behind all prediction types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import config
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import weighting
from lamd_jax.errors import ConfigError


def make(prediction):
  settings = config.defaults().diffusion
  settings.prediction = prediction
  return process_lib.from_config(settings)


@pytest.mark.parametrize("kind, power", [("l1", 1), ("l2", 2)])
def test_loss_is_a_mean_per_example(kind, power):
  raw = jnp.arange(2 * 3 * 2 * 2 * 1, dtype=jnp.bfloat16).reshape(2, 3, 2, 2, 1)
  target = jnp.ones(raw.shape)
  got = weighting.loss(make("eps"), raw, target, jnp.zeros(2), kind, 0.0)
  assert got.shape == (2,) and got.dtype == jnp.float32
  difference = np.abs(np.arange(24.0).reshape(2, -1) - 1) ** power
  np.testing.assert_allclose(got, difference.mean(1), rtol=1e-6)


@pytest.mark.parametrize("prediction", process_lib.PREDICTIONS)
@pytest.mark.parametrize("t", [2.0, 120.0, 700.5])
def test_min_snr_weighs_the_error_in_x0(prediction, t):
  # Section 3.4 of the paper: min(SNR, gamma) |x0 - x0_hat|^2, whatever is predicted.
  process, gamma = make(prediction), 5.0
  shape = (2, 1, 4, 4, 2)
  draws = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)

  @jax.jit
  def both(x0, noise, off, t):
    z, target = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    raw = target + off
    error = jnp.square(process.split(raw, z, t)[0] - x0).mean((1, 2, 3, 4))
    got = weighting.loss(process, raw, target, t, "l2", gamma)
    return got, jnp.minimum(process.snr(t), gamma) * error

  got, expected = both(*draws, np.full((2,), t, np.float32))
  np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_min_snr_has_the_closed_forms_of_the_paper():
  t = jnp.asarray([0.0, 300.0, 999.0])
  snr = np.asarray(make("eps").snr(t))
  assert snr[0] > 5 > snr[1]  # both branches
  clipped = np.minimum(snr, 5)
  for prediction, expected in (
    ("x0", clipped),
    ("eps", clipped / snr),
    ("v", clipped / (snr + 1)),
  ):
    got = weighting.min_snr(make(prediction), t, 5.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_weight_per_frame():
  process = make("eps")
  raw, target = jnp.ones((1, 2, 2, 2, 1)), jnp.zeros((1, 2, 2, 2, 1))
  got = weighting.loss(process, raw, target, jnp.asarray([[0.0, 999.0]]), "l1", 5.0)
  weights = weighting.min_snr(process, jnp.asarray([0.0, 999.0]), 5.0)
  assert weights[0] < weights[1] == 1
  np.testing.assert_allclose(got, [weights.mean()], rtol=1e-6)


def test_unknown_loss_is_refused():
  x = jnp.zeros((1, 1, 1, 1, 1))
  with pytest.raises(ConfigError, match="huber.*l1, l2"):
    weighting.loss(make("eps"), x, x, jnp.zeros(1), "huber", 0.0)
