# SPDX-License-Identifier: Apache-2.0
"""The loss of an autoencoder with a critic, as LVDM and latent diffusion define it.

Notation: x the clips, r the reconstruction, D the critic, all means and sums float32.

  nll  = sum(distance(x, r) + w_p LPIPS(x, r)) / frames      sum over a frame's pixels
  kl   = sum KL(q || N(0,1)) / clips                         nats a clip
  g    = -mean D(r)
  d    = w_g clip(|d nll/d kernel| / (|d g/d kernel| + 1e-4), 0, 1e4)
  generator      nll + w_kl kl + d g                         d g from gan_start on
  discriminator  (mean relu(1 - D(x)) + mean relu(1 + D(r))) / 2, or `vanilla`

The kernel is that of the last convolution (Esser et al., arXiv 2012.09841, equation
7). LPIPS is one number a frame, added to each of its pixels.

Cost. The derivatives of nll and g with respect to r are needed for d and again for
the generator's gradient. They are computed once, at a detached r; the generator's loss
is then the linear surrogate sum(stop_gradient(d nll/dr + d dg/dr) r), whose gradient is
the true one. True values are in the metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any
# (reconstruction, clips) [B,T,H,W,3] -> LPIPS of each frame, [B,T]
Perceptual = Callable[[jax.Array, jax.Array], jax.Array]
# (critic's parameters, its statistics, clips) -> (logits, new statistics)
Critic = Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]]

_DISTANCES = {"l1": jnp.abs, "mse": jnp.square}
_MAX_RATIO = 1e4
_KP, _KI = 0.01, -1e-4  # gains of the controller of beta


def kl_per_clip(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """KL of N(mean, exp(log_variance)) from N(0, 1): nats a clip, mean over clips."""
  nats = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
  return nats.sum() / mean.shape[0]


def kl_divisor(reduction: str, mean: jax.Array, x: jax.Array) -> int:
  """What nats a clip are divided by, beside a distance that is a mean over pixels.

  Args:
    reduction: what a weight of the KL is meant with.
      mean   the KL a mean over latents, the distance one over pixels
      clip   the KL a sum over a clip, the distance a mean: thousands of times stronger
      sum    both sums over a clip, as latent diffusion has it, scaled to a mean
    mean: [B,...], the posterior's.
    x: [B,T,H,W,3], the clips.
  """
  return {"mean": mean[0].size, "clip": 1, "sum": x[0].size}[reduction]


def controlled_beta(
  kl: jax.Array, integral: jax.Array, target: float
) -> tuple[jax.Array, jax.Array]:
  """Holds the KL at `target` nats a clip: (beta, the integral to go on from).

  e = target - KL, I += Ki e, beta = clip(Kp / (1 + exp(e)) + I, 0, 1), with the gains of
  MAGE+'s code. I is clipped as well; there it may run away.
  """
  error = target - kl
  integral = jnp.clip(integral + _KI * error, 0, 1)
  # sigmoid(-e) and not 1 / (1 + exp(e)), which overflows while the KL is far too small.
  return jnp.clip(_KP * jax.nn.sigmoid(-error) + integral, 0, 1), integral


def negative_log_likelihood(
  x: jax.Array, settings: Any, perceptual: Perceptual | None
) -> Callable[[jax.Array], jax.Array]:
  """Returns r -> nll, a scalar; x and r are [B,T,H,W,3] in [-1,1]."""
  batch, time, height, width, channels = x.shape
  distance = _DISTANCES[settings.reconstruction]

  def nll(r: jax.Array) -> jax.Array:
    total = distance(x - r).sum()
    if perceptual is not None:
      pixels = height * width * channels
      total += settings.perceptual_weight * perceptual(r, x).sum() * pixels
    return total / (batch * time)

  return nll


def adaptive_weight(nll_gradient: Tree, g_gradient: Tree, weight: float) -> jax.Array:
  """Returns d from the two gradients of the last layer's kernel."""
  norm = lambda gradient: jnp.sqrt(jnp.sum(jnp.square(gradient)))
  ratio = norm(nll_gradient) / (norm(g_gradient) + 1e-4)
  return weight * jnp.clip(ratio, 0, _MAX_RATIO)


def hinge(real: jax.Array, fake: jax.Array) -> jax.Array:
  """The critic's loss of its logits for real and reconstructed clips."""
  return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())


def vanilla(real: jax.Array, fake: jax.Array) -> jax.Array:
  """-log D(x) - log(1 - D(r)), halved, of logits."""
  return 0.5 * (jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean())


# Keys of loss.gan. The generator's part is -mean D(r) with both, as in the releases.
CRITIC_LOSSES = {"hinge": hinge, "vanilla": vanilla}


class Adversarial(NamedTuple):
  """What the critic contributes to a step."""

  g: jax.Array  # value of -mean D(r)
  g_gradient: jax.Array  # its derivative with respect to r, [B,T,H,W,3]
  critic_loss: jax.Array  # differentiable in the critic's parameters
  statistics: Tree  # the critic's, updated by the real and then the fake clips


def adversarial(
  critic: Critic,
  params: Tree,
  statistics: Tree,
  x: jax.Array,
  r: jax.Array,
  kind: str,
) -> Adversarial:
  """Runs the critic on x and on the detached r; `kind` is a key of CRITIC_LOSSES."""
  r = jax.lax.stop_gradient(r)
  frozen = jax.lax.stop_gradient(params)
  real, after_real = critic(params, statistics, x)
  fake, after_fake = critic(params, after_real, r)
  g, g_gradient = jax.value_and_grad(
    lambda clips: -critic(frozen, after_real, clips)[0].mean()
  )(r)
  return Adversarial(g, g_gradient, CRITIC_LOSSES[kind](real, fake), after_fake)


def silent(statistics: Tree, r: jax.Array) -> Adversarial:
  """What the critic contributes before `gan_start`: nothing, at no cost."""
  zero = jnp.zeros((), jnp.float32)
  return Adversarial(zero, jnp.zeros_like(r), zero, statistics)


def surrogate(r: jax.Array, cotangent: jax.Array) -> jax.Array:
  """A scalar whose derivative with respect to r is `cotangent`."""
  return jnp.sum(jax.lax.stop_gradient(cotangent) * r)
