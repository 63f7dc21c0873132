# SPDX-License-Identifier: Apache-2.0
"""Where a chain stops: positions [S+1] float64, strictly decreasing.

`grid[0]` is the level of the start state, `grid[-1]` that of the result, most often
`schedule.CLEAN` (-1). A step goes from each to the next; the network is asked at all
but the last. Grids are NumPy arrays and static: a chain is compiled for its grid, and
its coefficients are computed on the host in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import schedule as schedule_lib
from lamd_jax.errors import ConfigError


def trailing(schedule: schedule_lib.Schedule, steps: int) -> np.ndarray:
  """T_max-1, then equal strides, rounded to trained levels; then clean.

  Lin et al. (arXiv 2305.08891), table 2. It begins where training's noisiest level
  is, so that a start from pure noise is right at zero terminal SNR.
  """
  levels = schedule.steps * (1 - np.arange(steps) / steps) - 1
  return np.append(np.round(levels), schedule_lib.CLEAN)


def uniform(schedule: schedule_lib.Schedule, steps: int) -> np.ndarray:
  """From T_max-1 to 0 in equal strides, rounded to trained levels; then clean.

  Lin et al., table 2, "linspace". The last step goes from the lowest level to clean.
  """
  levels = np.linspace(schedule.steps - 1, 0, steps)
  return np.append(np.round(levels), schedule_lib.CLEAN)


def log_snr(schedule: schedule_lib.Schedule, steps: int) -> np.ndarray:
  """From T_max-1 to 0 in equal strides of log-SNR, with fractions; then clean.

  Lu et al. (arXiv 2206.00927, section 4.3). It spends its steps where structure of
  every size is decided alike: on Gaussians of standard deviation 1 to 0.2 twenty steps
  of DPM-Solver++ end within 1.5 % of it, where `trailing` loses 4 to 44 %. A
  terminal level of zero SNR lies infinitely far away; the strides begin at the next.
  """
  levels = np.arange(schedule.steps, dtype=np.float64)
  with np.errstate(divide="ignore"):
    log_ratio = np.log(schedule.alpha / schedule.sigma)
  last = schedule.steps - 1 - int(np.isneginf(log_ratio[-1]))
  strides = np.linspace(log_ratio[last], log_ratio[0], steps)
  # Linear between levels, near enough to equal strides; interp wants rising abscissae.
  grid = np.interp(strides, log_ratio[last::-1], levels[last::-1])
  grid[0] = levels[-1]
  return np.append(grid, schedule_lib.CLEAN)


def ddim_release(schedule: schedule_lib.Schedule, steps: int) -> np.ndarray:
  """The released DDIM's range(0, T_max, T_max//S) + 1, and level 0 as the end.

  Latent diffusion and LVDM sample so: 1000 levels and S=50 give 981, ..., 21, 1, 0.
  The result keeps level 0's noise. Where S does not divide T_max the chain is longer
  than S. The start state is taken for pure noise although the first level is not.
  """
  levels = np.arange(0, schedule.steps, schedule.steps // steps) + 1
  if levels[-1] >= schedule.steps:
    raise ConfigError(
      f"sampler steps={steps}: the released DDIM spacing of {schedule.steps} levels "
      f"needs at most {schedule.steps // 2} steps; take another spacing or fewer steps"
    )
  return np.append(levels[::-1], 0).astype(np.float64)


SPACINGS: dict[str, Callable[[schedule_lib.Schedule, int], np.ndarray]] = {
  "trailing": trailing,
  "uniform": uniform,
  "log_snr": log_snr,
  "ddim_release": ddim_release,
}


def make(
  process: process_lib.Process, steps: int, spacing: str = "log_snr"
) -> np.ndarray:
  """Returns the positions of a chain of `steps` steps, [S+1] float64.

  T_max steps are every level once, then clean, in all spacings that allow so many.

  Args:
    process: the process.
    steps: S, from 1 to T_max.
    spacing: a key of SPACINGS.

  Raises:
    ConfigError: unknown spacing, or more steps than levels.
  """
  if spacing not in SPACINGS:
    raise ConfigError(f"spacing={spacing!r}: must be one of " + ", ".join(SPACINGS))
  if not 1 <= steps <= process.schedule.steps:
    raise ConfigError(
      f"sampler steps={steps}: must be from 1 to diffusion.steps="
      f"{process.schedule.steps}"
    )
  if steps == process.schedule.steps and spacing != "ddim_release":
    spacing = "trailing"
  return SPACINGS[spacing](process.schedule, steps)


def cut(grid: np.ndarray, level: float) -> np.ndarray:
  """Returns the positions of `grid` below `level`, and `level` before them.

  A chain that starts there from a noised clip is SDEdit (Meng et al., arXiv
  2108.01073, section 3). The last position of `grid` is below `level`.
  """
  return np.append(level, grid[grid < level])
