# SPDX-License-Identifier: Apache-2.0
"""AdamW and Muon, learning-rate schedules, clipping and moving averages."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from lamd_jax.errors import ConfigError

Tree = Any
SCHEDULES = ("constant", "cosine")


def learning_rate(optim: ConfigDict) -> Callable[[jax.Array], jax.Array]:
  """Returns the learning rate as a function of the number of updates made so far.

  A linear warm-up over `warmup` updates, its first at 1/warmup of the rate and not at
  0, then `constant`, or `cosine` down to `final_fraction` of the rate at `steps`.
  """
  if optim.schedule not in SCHEDULES:
    raise ConfigError(
      f"optim.schedule={optim.schedule!r} is not one of {', '.join(SCHEDULES)}"
    )
  peak, warmup, last = optim.learning_rate, optim.warmup, optim.final_fraction
  cosine = optim.schedule == "cosine"
  decaying = max(1, optim.steps - warmup)

  def rate(updates: jax.Array) -> jax.Array:
    n = jnp.asarray(updates, jnp.float32)
    warm = jnp.minimum(1.0, (n + 1) / max(1, warmup))
    if not cosine:
      return peak * warm
    progress = jnp.clip((n - warmup) / decaying, 0.0, 1.0)
    return peak * warm * (last + (1 - last) * 0.5 * (1 + jnp.cos(math.pi * progress)))

  return rate


def make(optim: ConfigDict) -> optax.GradientTransformation:
  """Returns the optimizer that `optim.optimizer` names.

  adamw: as in Loshchilov & Hutter (and torch); with no decay it is Adam. The decay is
  decoupled and scaled by the learning rate, and acts on all parameters.
  muon: `scale_by_muon` in Adam's place.
  """
  scale = OPTIMIZERS[optim.optimizer]
  parts = [scale(optim.b1, optim.b2, optim.epsilon)]
  if optim.weight_decay:
    parts.append(optax.add_decayed_weights(optim.weight_decay))
  return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate(optim)))


def elementwise(optim: ConfigDict) -> bool:
  """Whether each number's update depends on that number's history alone.

  Only then may `bundles` pack arrays; Muon needs their matrices.
  """
  return optim.optimizer == "adamw"


# Newton-Schulz coefficients of Jordan et al.: five rounds bring singular values from
# [0.01, 1] to about [0.7, 1.2], which is as good as 1 here.
_NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
_ROUNDS = 5


def orthogonalise(x: jax.Array) -> jax.Array:
  """Returns about U V^T of x = U S V^T; x is read as a matrix [all but last, last].

  The rounds are a loop: a UNet has hundreds of kernels, and written out they are two
  thirds of the operations of its training step.
  """
  a, b, c = _NEWTON_SCHULZ
  m = x.reshape(-1, x.shape[-1])
  tall = m.shape[0] > m.shape[1]
  m = m.T if tall else m
  m = m / (jnp.linalg.norm(m) + 1e-8)

  def once(_: int, m: jax.Array) -> jax.Array:
    square = m @ m.T
    return a * m + (b * square + c * square @ square) @ m

  m = jax.lax.fori_loop(0, _ROUNDS, once, m)
  return (m.T if tall else m).reshape(x.shape)


def scale_by_muon(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
  """Muon (Jordan et al., 2024): kernels move along orthogonalised momentum.

  The momentum is Adam's first moment, with Nesterov's look-ahead; vectors (biases,
  scales) get Adam's update. The root mean square of a kernel's update is 0.2, about
  that of Adam's, so both share a learning rate (Liu et al., arXiv 2502.16982, eq. 4).
  """
  adam = optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon)

  def update(gradients: Tree, state: Any, params: Tree | None = None):
    updates, state = adam.update(gradients, state, params)

    def one(gradient: jax.Array, moment: jax.Array, plain: jax.Array) -> jax.Array:
      if gradient.ndim < 2:
        return plain
      ahead = b1 * moment + (1 - b1) * gradient
      rows, columns = math.prod(gradient.shape[:-1]), gradient.shape[-1]
      return 0.2 * math.sqrt(max(rows, columns)) * orthogonalise(ahead)

    return jax.tree.map(one, gradients, state.mu, updates), state

  return optax.GradientTransformation(adam.init, update)


OPTIMIZERS = {
  "adamw": lambda b1, b2, epsilon: optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon),
  "muon": scale_by_muon,
}


def init(optimizer: optax.GradientTransformation, params: Tree) -> Tree:
  """Returns the optimizer's first state, in NumPy: Adam's starts at zero throughout.

  `optimizer.init` itself would compile one small program per shape.
  """
  shapes = jax.eval_shape(optimizer.init, params)
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def global_norm(tree: Tree) -> jax.Array:
  """Euclidean norm of all numbers of `tree` together, [] float32."""
  squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]
  return jnp.sqrt(sum(squares, start=jnp.zeros(())))


def clip(gradients: Tree, norm: jax.Array, limit: float) -> Tree:
  """Scales `gradients`, of global norm `norm`, to at most `limit`; 0 leaves them."""
  if not limit:
    return gradients
  # norm > limit > 0 wherever the quotient is used.
  scale = jnp.where(norm > limit, limit / jnp.maximum(norm, limit), 1.0)
  return jax.tree.map(lambda g: g * scale, gradients)


def ema_decay(optim: ConfigDict, updates: jax.Array) -> jax.Array:
  """Decay of the moving average at update number `updates` (the first is 1).

  With warm-up it is min(decay, (1+n)/(10+n)), so that the average is not held back by
  the initial parameters.
  """
  n = jnp.asarray(updates, jnp.float32)
  if not optim.ema_warmup:
    return jnp.full_like(n, optim.ema_decay)
  return jnp.minimum(optim.ema_decay, (1 + n) / (10 + n))
