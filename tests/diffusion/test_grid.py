# SPDX-License-Identifier: Apache-2.0
"""Where chains stop, and the released DDIM's coefficients there."""

import numpy as np
import pytest

from lamd_jax import config
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import schedule as schedule_lib
from lamd_jax.diffusion.samplers import chain
from lamd_jax.diffusion.samplers import grid as grid_lib
from lamd_jax.errors import ConfigError


def make(prediction="v", zero_terminal_snr=False):
  settings = config.defaults().diffusion
  settings.prediction = prediction
  settings.zero_terminal_snr = zero_terminal_snr
  return process_lib.from_config(settings)


@pytest.fixture(scope="module")
def recorded(fixtures):
  with np.load(fixtures / "lvdm" / "lvdm_schedule.npz") as data:
    return dict(data)


@pytest.mark.parametrize("steps", [50, 100, 200])
@pytest.mark.parametrize("eta", [0, 1])
@pytest.mark.parametrize(
  "prefix, betas", [("uncond", (0.0015, 0.0155)), ("t2v", (0.00085, 0.012))]
)
def test_released_ddim(recorded, steps, eta, prefix, betas):
  """Rows sigma, alpha_bar and previous alpha_bar of the reference, lowest first."""
  schedule = schedule_lib.from_betas(
    "scaled_linear", schedule_lib.scaled_linear_betas(1000, *betas)
  )
  process = process_lib.Process(schedule, "eps")
  grid = grid_lib.make(process, steps, "ddim_release")
  np.testing.assert_array_equal(grid[-2::-1], recorded[f"ddim{steps}_timesteps"])
  path = chain.path(process, grid)
  std, bar, previous = recorded[f"{prefix}_ddim{steps}_eta{eta}"]
  # The reference keeps alpha_bar in float32, and the deviation takes differences of it.
  np.testing.assert_allclose(eta * chain.posterior_std(path)[::-1], std, rtol=1e-5)
  np.testing.assert_allclose(path.alpha[-2::-1] ** 2, bar, rtol=1e-6)
  np.testing.assert_allclose(path.alpha[:0:-1] ** 2, previous, rtol=1e-6)


@pytest.mark.parametrize("process", [make(), make("v", True), make("flow")])
@pytest.mark.parametrize("spacing", ["trailing", "uniform", "log_snr"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 999, 1000])
def test_grids_begin_at_the_noisiest_level_and_end_clean(process, spacing, steps):
  grid = grid_lib.make(process, steps, spacing)
  assert len(grid) == steps + 1
  assert grid[0] == 999 and grid[-1] == schedule_lib.CLEAN
  assert np.all(np.diff(grid) < 0)
  if spacing != "log_snr":
    np.testing.assert_array_equal(grid, np.round(grid))


def test_as_many_steps_as_levels_visit_each_once():
  for spacing in ("trailing", "uniform", "log_snr"):
    grid = grid_lib.make(make(), 1000, spacing)
    np.testing.assert_array_equal(grid, np.arange(999, -2, -1))


def test_trailing_and_uniform_by_hand():
  process = make()
  np.testing.assert_array_equal(grid_lib.make(process, 4, "trailing"),
                                [999, 749, 499, 249, -1])  # fmt: skip
  np.testing.assert_array_equal(grid_lib.make(process, 4, "uniform"),
                                [999, 666, 333, 0, -1])  # fmt: skip


def test_log_snr_strides_are_equal():
  process = make()
  alpha, sigma = process.schedule.at(grid_lib.make(process, 20)[:-1])
  strides = np.diff(np.log(alpha / sigma))
  np.testing.assert_allclose(strides, strides.mean(), rtol=0.02)


@pytest.mark.parametrize(
  "steps, spacing, message",
  [
    (0, "log_snr", "steps=0.*1000"),
    (1001, "trailing", "steps=1001.*1000"),
    (1000, "ddim_release", "at most 500"),
    (10, "karras", "karras.*trailing"),
  ],
)
def test_impossible_grids_are_refused(steps, spacing, message):
  with pytest.raises(ConfigError, match=message):
    grid_lib.make(make(), steps, spacing)
