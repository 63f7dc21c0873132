# SPDX-License-Identifier: Apache-2.0
"""Noise schedules as float64 tables: z_t = alpha_t x0 + sigma_t eps.

A schedule position t is a real number in [-1, T_max-1]. The integers 0..T_max-1 are
the levels a network is trained on, T_max-1 the noisiest; -1 is the clean end (alpha 1,
sigma 0), where no network is ever asked. In between the point (alpha, sigma) goes
along the arc from one level to the next, so positions with fractions are levels of
the same kind, monotone, and well defined at both ends (log-SNR would not be).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

CLEAN = -1.0  # the position without noise


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
  """Signal and noise at the integer positions; compared and hashed by identity.

  Attributes:
    name: for messages.
    alpha: [T_max] float64, factor of the signal, decreasing, in [0, 1).
    sigma: [T_max] float64, factor of the noise, increasing, in (0, 1].
    preserves_variance: whether alpha^2 + sigma^2 = 1; else alpha + sigma = 1.
  """

  name: str
  alpha: np.ndarray
  sigma: np.ndarray
  preserves_variance: bool

  @property
  def steps(self) -> int:
    """T_max."""
    return len(self.alpha)

  @property
  def alpha_bar(self) -> np.ndarray:
    """[T_max] float64 in [0, 1): the signal's share of the variance."""
    return self.alpha**2 / (self.alpha**2 + self.sigma**2)

  def at(self, t: np.ndarray | jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns (alpha, sigma) at positions of any shape, in the shape of `t`.

    Args:
      t: float positions in [-1, T_max-1]. A NumPy array is answered on the host in
        float64, a JAX array on the device in its own precision. At integers the
        answer is the table's value, rounded once.
    """
    xp = jnp if isinstance(t, jax.Array) else np
    dtype = t.dtype if isinstance(t, jax.Array) else np.float64
    t = xp.asarray(t, dtype)
    # The tables begin with the clean position, hence the shift by one.
    alpha, sigma = np.append(1.0, self.alpha), np.append(0.0, self.sigma)
    below = xp.clip(xp.floor(t).astype(np.int32) + 1, 0, self.steps)
    above = xp.minimum(below + 1, self.steps)
    f = xp.clip(t - (below - 1).astype(dtype), 0.0, 1.0)
    between = lambda table: (
      (1 - f) * xp.asarray(table, dtype)[below] + f * xp.asarray(table, dtype)[above]
    )
    a, s = between(alpha), between(sigma)
    if not self.preserves_variance:
      return a, s
    # |chord|^2 from 1 - cos(arc): exactly 1 at integers, unlike a^2 + s^2 in float32.
    versine = 1 - (alpha[:-1] * alpha[1:] + sigma[:-1] * sigma[1:])
    versine = xp.asarray(np.append(versine, 0.0), dtype)[below]
    length = xp.sqrt(1 - 2 * f * (1 - f) * versine)
    return a / length, s / length


def linear_betas(steps: int, beta_start: float, beta_end: float) -> np.ndarray:
  """Ho et al. (arXiv 2006.11239), section 4: beta itself is linear."""
  return np.linspace(beta_start, beta_end, steps, dtype=np.float64)


def scaled_linear_betas(steps: int, beta_start: float, beta_end: float) -> np.ndarray:
  """sqrt(beta) is linear: what LVDM and latent diffusion call "linear"."""
  return np.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=np.float64) ** 2


def cosine_betas(steps: int, beta_start: float, beta_end: float) -> np.ndarray:
  """Nichol and Dhariwal (arXiv 2102.09672), equation 17; the two betas are not used."""
  del beta_start, beta_end
  offset, largest = 8e-3, 0.999  # both from the paper, section 3.2
  u = np.arange(steps + 1, dtype=np.float64) / steps
  f = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
  return np.clip(1 - f[1:] / f[:-1], 0, largest)


# (steps, beta_start, beta_end) -> betas [steps] float64; keys of diffusion.schedule.
BETAS: dict[str, Callable[[int, float, float], np.ndarray]] = {
  "linear": linear_betas,
  "scaled_linear": scaled_linear_betas,
  "cosine": cosine_betas,
}


def from_alpha_bar(name: str, alpha_bar: np.ndarray) -> Schedule:
  """Returns the variance-preserving schedule of alpha_bar [T_max] float64."""
  alpha_bar = np.asarray(alpha_bar, np.float64)
  return Schedule(name, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), True)


def from_betas(name: str, betas: np.ndarray) -> Schedule:
  """Returns the schedule with alpha_bar_t = prod_{s<=t} (1 - beta_s)."""
  return from_alpha_bar(name, np.cumprod(1 - np.asarray(betas, np.float64)))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
  """Rescales so that the last level is pure noise and the first stays as it is.

  Lin et al. (arXiv 2305.08891), algorithm 1: sqrt(alpha_bar) is shifted and scaled.
  """
  first, last = schedule.alpha[0], schedule.alpha[-1]
  alpha = (schedule.alpha - last) * (first / (first - last))
  return from_alpha_bar(f"{schedule.name}, zero terminal SNR", alpha**2)


def straight(steps: int) -> Schedule:
  """Rectified flow (arXiv 2209.03003): z = (1-s) x0 + s eps, s = (t+1)/T_max.

  With this convention the last level is pure noise, as sampling starts, the first is
  1/T_max, and clean is t = -1 as everywhere else.
  """
  s = np.arange(1, steps + 1, dtype=np.float64) / steps
  return Schedule("straight", 1 - s, s, False)
