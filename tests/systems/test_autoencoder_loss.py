# SPDX-License-Identifier: Apache-2.0
"""The loss against the reference's numbers, and against its plain formulation."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import fill
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder
from lamd_jax.interchange import lvdm_discriminator
from lamd_jax.networks import discriminators
from lamd_jax.networks import video_autoencoder
from lamd_jax.nn import initializers
from lamd_jax.systems import autoencoder_loss

SETTINGS = types.SimpleNamespace(
  reconstruction="l1", perceptual_weight=0.0, kl_weight=1e-3, gan_weight=0.5
)


def _filled(data, prefix=""):
  names = [str(k) for k in data["keys"]]
  shapes = dict(zip(names, map(tuple, json.loads(str(data["shapes"])))))
  norms = dict(zip(names, data["norm_scale"]))
  state = fill.state(shapes, norms)
  assert not fill.unlike(
    state, dict(zip(names, data["w_sum"])), dict(zip(names, data["w_sumsq"]))
  )
  return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def critic(fixtures):
  data = np.load(fixtures / "lvdm" / "lvdm_losses_tiny.npz")
  network = discriminators.FrameDiscriminator(64, 3, "batch")
  x = jax.ShapeDtypeStruct((1, 1, 32, 32, 3), jnp.float32)
  shapes = initializers.shapes(network, x, train=True)
  state = _filled(data, "discriminator.")
  variables = keys.to_params(state, lvdm_discriminator.rules(shapes), shapes)
  return network, variables, data


def _channels_last(x):
  return np.moveaxis(x, 1, -1)


def test_logits_in_both_modes(critic):
  # Expected: the reference's patch critic, lvdm_losses_tiny.npz.
  network, variables, data = critic
  frames = _channels_last(data["frame"])[:, None]
  for mode, train in (("eval", False), ("train", True)):
    logits, _ = network.apply(variables, frames, train=train, mutable=["batch_stats"])
    expected = _channels_last(data[f"logits_{mode}"])[:, None]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def _autoencoder(fixtures):
  data = np.load(fixtures / "lvdm" / "lvdm_ae_tiny.npz")
  network = video_autoencoder.VideoAutoencoder(16, (4, 8, 8), 4, 32)
  shapes = initializers.shapes(
    network, jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.float32)
  )["params"]
  params = keys.to_params(_filled(data), lvdm_autoencoder.video_rules(shapes), shapes)
  return network, params


def test_losses_and_adaptive_weight(fixtures, critic):
  # Expected: the reference's loss module at steps 0 and 50001, lvdm_losses_tiny.npz.
  discriminator, variables, data = critic
  network, params = _autoencoder(fixtures)
  apply = lambda p, x, m: network.apply({"params": p}, x, method=m)
  x = jnp.asarray(_channels_last(data["x"]))

  @jax.jit
  def parts(params):
    mean, log_variance = apply(params, x, "encode")
    features = apply(params, mean, "decode_features")
    r = apply(params, features, "output")
    nll, cotangent = jax.value_and_grad(
      autoencoder_loss.negative_log_likelihood(x, SETTINGS, None)
    )(r)

    def judge(weights, statistics, clips):
      logits, updated = discriminator.apply(
        {"params": weights, "batch_stats": statistics},
        clips,
        train=True,
        mutable=["batch_stats"],
      )
      return logits, updated["batch_stats"]

    added = autoencoder_loss.adversarial(
      judge, variables["params"], variables["batch_stats"], x, r, "hinge"
    )
    _, pull = jax.vjp(
      lambda p: apply({"conv_out": p}, features, "output"), params["conv_out"]
    )
    kernel = lambda tree: next(a for a in jax.tree.leaves(tree) if a.ndim > 1)
    weight = autoencoder_loss.adaptive_weight(
      kernel(pull(cotangent)[0]), kernel(pull(added.g_gradient)[0]), 0.5
    )
    kl = autoencoder_loss.kl_per_clip(mean, log_variance)
    return r, nll + SETTINGS.kl_weight * kl, added.g, added.critic_loss, weight

  r, plain, g, critic_loss, weight = parts(params)
  expected = {k: float(data[k]) for k in data.files if data[k].ndim == 0 and "gs" in k}
  np.testing.assert_allclose(r, _channels_last(data["recon"]), rtol=1e-4, atol=1e-4)
  assert float(plain) == pytest.approx(expected["ae_loss_gs0"], rel=1e-4)
  assert float(g) == pytest.approx(expected["g_loss_gs50001"], rel=1e-4)
  assert float(weight) == pytest.approx(expected["d_weight_gs50001"], rel=1e-4)
  total = float(plain + weight * g)
  assert total == pytest.approx(expected["ae_loss_gs50001"], rel=1e-4)
  assert float(critic_loss) == pytest.approx(expected["disc_loss_gs50001"], rel=1e-4)


def test_surrogate_has_the_gradient_of_the_plain_loss():
  """The derivative taken once at a detached r equals that of the written-out loss."""
  generator = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(generator.standard_normal(shape), jnp.float32)
  x, h, w, v = draw(1, 2, 4, 4, 3), draw(1, 2, 4, 4, 5), draw(5, 3), draw(3)
  settings = types.SimpleNamespace(reconstruction="mse", perceptual_weight=2.0)
  flat = lambda a, b: jnp.abs(a - b).mean((2, 3, 4)) ** 2
  nll = autoencoder_loss.negative_log_likelihood(x, settings, flat)
  g = lambda r: -jnp.tanh(r @ v).mean()

  def plain(w):
    r = h @ w
    return nll(r) + 0.3 * g(r)

  def ours(w):
    r = h @ w
    cotangent = jax.grad(nll)(r) + 0.3 * jax.grad(g)(r)
    return autoencoder_loss.surrogate(r, cotangent)

  np.testing.assert_allclose(jax.grad(ours)(w), jax.grad(plain)(w), rtol=1e-5)


def test_kl_of_a_known_gaussian():
  # KL(N(1, 4) || N(0, 1)) = (1 + 4 - 1 - ln 4)/2 = 1.3069 nats an element.
  mean, log_variance = jnp.ones((2, 3, 5)), jnp.full((2, 3, 5), np.log(4.0))
  found = float(autoencoder_loss.kl_per_clip(mean, log_variance))
  assert found == pytest.approx(15 * 1.306853, rel=1e-5)


def test_groups_do_not_reach_each_other():
  """The critic's loss has no gradient in r, and g none in the critic's parameters."""
  weights = jnp.asarray([0.5])
  judge = lambda p, s, clips: (clips.sum(-1) * p[0], s)
  x = jnp.full((1, 1, 2, 2, 3), 0.1)

  def parts(r, weights):
    return autoencoder_loss.adversarial(judge, weights, {}, x, r, "hinge")

  r = 2 * x
  critic_of_r = jax.grad(lambda r: parts(r, weights).critic_loss)(r)
  g_of_weights = jax.grad(lambda w: parts(r, w).g_gradient.sum())(weights)
  own = jax.grad(lambda w: parts(r, w).critic_loss)(weights)
  assert not critic_of_r.any() and not g_of_weights.any() and own.any()


def test_what_a_kl_weight_is_meant_with():
  """Section 5 of the LaMD specification: BAIR's 768 latents, 16x64x64x3 pixel values."""
  mean = jnp.zeros((2, 1, 16, 16, 3))
  x = jnp.zeros((2, 16, 64, 64, 3))
  divisor = lambda kind: autoencoder_loss.kl_divisor(kind, mean, x)
  assert divisor("mean") == 768 and divisor("clip") == 1
  # beta N_z / N_x = 3.9e-5 at beta 1e-2, the table's equivalent of both sums.
  assert 1e-2 * divisor("mean") / divisor("sum") == pytest.approx(3.9e-5, rel=0.01)


def test_the_controller_holds_the_kl_at_its_target():
  """Against a toy bottleneck whose KL drifts, as training does, to 0.5 / beta."""

  def step(carry, _):
    kl, integral = carry
    beta, integral = autoencoder_loss.controlled_beta(kl, integral, 50.0)
    kl = kl + 0.01 * (jnp.minimum(0.5 / jnp.maximum(beta, 1e-4), 500.0) - kl)
    return (kl, integral), (kl, beta, integral)

  start = (jnp.float32(500.0), jnp.zeros(()))
  _, (kl, beta, integral) = jax.lax.scan(step, start, length=5000)
  assert float(kl[-1000:].mean()) == pytest.approx(50, rel=0.1)
  for value in (beta, integral):
    assert float(value.min()) >= 0 and float(value.max()) <= 1
  # By hand: e = 40, I = 0 (clipped from -0.004), sigmoid(-40) is 4e-18.
  beta, integral = autoencoder_loss.controlled_beta(jnp.float32(10), jnp.zeros(()), 50.0)
  assert float(integral) == 0 and float(beta) < 1e-15
  # e = -10, I = 0.001, beta = 0.01 / (1 + exp(-10)) + 0.001.
  beta, integral = autoencoder_loss.controlled_beta(jnp.float32(60), jnp.zeros(()), 50.0)
  assert float(integral) == pytest.approx(1e-3) and float(beta) == pytest.approx(0.011, 1e-3)


def test_the_critic_s_two_losses():
  real, fake = jnp.array([2.0, 0.5]), jnp.array([-2.0, 0.0])
  # (0 + 0.5) / 2 and (0 + 1) / 2, halved.
  assert float(autoencoder_loss.hinge(real, fake)) == pytest.approx(0.375)
  d_real, d_fake = jax.nn.sigmoid(real), jax.nn.sigmoid(fake)
  expected = -(jnp.log(d_real).mean() + jnp.log(1 - d_fake).mean()) / 2
  assert float(autoencoder_loss.vanilla(real, fake)) == pytest.approx(float(expected))
