# SPDX-License-Identifier: Apache-2.0
"""A diffusion process: a schedule, and what the network is asked to predict.

Everything that needs to know either has a `Process` beside its denoiser. Written out,
with z_t = alpha_t x0 + sigma_t eps:

  prediction  raw output              paper
  eps         eps                     arXiv 2006.11239, equation 14
  x0          x0                      likewise, section 3.2
  v           alpha eps - sigma x0    arXiv 2202.00512, section 4
  flow        eps - x0                arXiv 2209.03003, equation 1, with time reversed
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lamd_jax import types
from lamd_jax.diffusion import schedule as schedule_lib
from lamd_jax.errors import ConfigError

# (z [B,T,h,w,C], t [B] or [B,T], conditions) -> raw output, like z
Denoiser = Callable[[jax.Array, jax.Array, types.Conditions], jax.Array]


class _Prediction(NamedTuple):
  """How raw output relates to (x0, eps); a, s are alpha and sigma, broadcast."""

  target: Callable[..., jax.Array]  # (x0, eps, a, s) -> raw
  split: Callable[..., tuple[jax.Array, jax.Array]]  # (raw, z, a, s) -> (x0, eps)


_PREDICTIONS: dict[str, _Prediction] = {
  "eps": _Prediction(
    lambda x0, eps, a, s: eps,
    lambda raw, z, a, s: ((z - s * raw) / a, raw),
  ),
  "x0": _Prediction(
    lambda x0, eps, a, s: x0,
    lambda raw, z, a, s: (raw, (z - a * raw) / s),
  ),
  "v": _Prediction(
    lambda x0, eps, a, s: a * eps - s * x0,
    lambda raw, z, a, s: (a * z - s * raw, s * z + a * raw),
  ),
  "flow": _Prediction(
    lambda x0, eps, a, s: eps - x0,
    lambda raw, z, a, s: (z - s * raw, z + a * raw),
  ),
}
PREDICTIONS = tuple(_PREDICTIONS)


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
  """A static record; close over it in jitted functions.

  In all methods x0, noise, z and raw are [B,T,h,w,C] float and t is [B] or [B,T]
  float, a schedule position in [0, T_max-1], fractions allowed.

  Attributes:
    schedule: signal and noise by position.
    prediction: eps | x0 | v | flow. `flow` goes with the straight schedule and no
      other does.

  Raises:
    ConfigError: unknown prediction, one that the schedule does not admit, or eps at
      zero terminal SNR.
  """

  schedule: schedule_lib.Schedule
  prediction: str

  def __post_init__(self):
    if self.prediction not in _PREDICTIONS:
      raise ConfigError(
        f"diffusion.prediction={self.prediction!r}: must be one of "
        + ", ".join(PREDICTIONS)
      )
    if (self.prediction == "flow") == self.schedule.preserves_variance:
      raise ConfigError(
        f"diffusion.prediction={self.prediction!r} does not go with schedule "
        f"{self.schedule.name!r}: flow needs the straight schedule, the others do not"
      )
    if self.prediction == "eps" and self.schedule.alpha[-1] == 0:
      raise ConfigError(
        "diffusion.prediction='eps' cannot be used where the last level has SNR 0: z "
        "is pure noise there and says nothing of x0; use v or x0, or "
        "zero_terminal_snr=False"
      )

  def alpha_sigma(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (alpha, sigma) in the shape of t."""
    chex.assert_type(t, float)
    return self.schedule.at(t)

  def snr(self, t: jax.Array) -> jax.Array:
    """Returns alpha^2 / sigma^2 in the shape of t; 0 at zero terminal SNR."""
    alpha, sigma = self.alpha_sigma(t)
    return jnp.square(alpha / sigma)

  def add_noise(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """Returns z_t = alpha_t x0 + sigma_t noise."""
    chex.assert_equal_shape([x0, noise])
    alpha, sigma = self._broadcast(t, x0)
    return alpha * x0 + sigma * noise

  def target(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """Returns what the network should answer to add_noise(x0, noise, t)."""
    chex.assert_equal_shape([x0, noise])
    alpha, sigma = self._broadcast(t, x0)
    return _PREDICTIONS[self.prediction].target(x0, noise, alpha, sigma)

  def split(
    self, raw: jax.Array, z: jax.Array, t: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns (x0, eps) that raw output stands for; z = alpha x0 + sigma eps holds.

    `target` is its inverse: raw = target(x0, eps, t).
    """
    chex.assert_equal_shape([raw, z])
    alpha, sigma = self._broadcast(t, z)
    return _PREDICTIONS[self.prediction].split(raw, z, alpha, sigma)

  def _broadcast(self, t: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    chex.assert_rank(t, {1, 2})
    ones = (1,) * (like.ndim - t.ndim)
    alpha, sigma = self.alpha_sigma(t)
    return alpha.reshape(t.shape + ones), sigma.reshape(t.shape + ones)


def from_config(config: Any) -> Process:
  """Builds the process of the group `diffusion` of a config.

  Args:
    config: see `lamd_jax.config`. With prediction="flow" the schedule is the straight
      one, which has no betas; `schedule`, the betas and `zero_terminal_snr` are then
      without effect.
  """
  if config.prediction == "flow":
    return Process(schedule_lib.straight(config.steps), "flow")
  if config.schedule not in schedule_lib.BETAS:
    raise ConfigError(
      f"diffusion.schedule={config.schedule!r}: must be one of "
      + ", ".join(schedule_lib.BETAS)
    )
  betas = schedule_lib.BETAS[config.schedule]
  schedule = schedule_lib.from_betas(
    config.schedule, betas(config.steps, config.beta_start, config.beta_end)
  )
  if config.zero_terminal_snr:
    schedule = schedule_lib.zero_terminal_snr(schedule)
  return Process(schedule, config.prediction)
