# SPDX-License-Identifier: Apache-2.0
"""DDIM inversion: there and back again, nearer as the steps grow."""

import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import config
from lamd_jax import types
from lamd_jax.diffusion import inversion
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.samplers import ddim
from lamd_jax.diffusion.samplers import grid as grid_lib

STD = 0.5  # of the data, Gaussian and independent: the best denoiser is known


def _process(prediction):
  settings = config.defaults().diffusion
  settings.prediction = prediction
  return process_lib.from_config(settings)


def _denoise(process):
  """E[x0 | z] = alpha std^2 z / (alpha^2 std^2 + sigma^2), as raw output."""

  def denoise(z, t, conditions):
    alpha, sigma = (x.reshape(-1, 1, 1, 1, 1) for x in process.alpha_sigma(t))
    x0 = alpha * STD**2 * z / (alpha**2 * STD**2 + sigma**2)
    return process.target(x0, (z - alpha * x0) / sigma, t)

  return denoise


def _there_and_back(prediction, steps, strength=1.0):
  process = _process(prediction)
  level = strength * (process.schedule.steps - 1)
  grid = grid_lib.cut(grid_lib.make(process, steps, "log_snr"), level)
  x = jnp.asarray(STD * np.random.default_rng(0).standard_normal((2, 3, 4, 4, 2)))
  none = types.Conditions()
  z = inversion.invert(_denoise(process), process, x, none, grid=grid)
  back = ddim.sample(
    _denoise(process), process, z, none, grid=grid, noise=lambda i: 0, eta=0.0
  )
  return x, z, back, process.schedule.at(np.float64(grid[0]))


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_there_and_back_is_nearer_the_more_steps(prediction):
  errors = []
  for steps in (10, 40, 160):
    x, _, back, _ = _there_and_back(prediction, steps)
    errors.append(float(jnp.sqrt(jnp.mean((back - x) ** 2)) / STD))
  # Of first order: a quarter of the strides, a quarter of the error, or nearly.
  assert errors[1] < 0.4 * errors[0] and errors[2] < 0.4 * errors[1]
  assert errors[2] < 0.04


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_state_has_the_level_s_spread(strength):
  # Of Gaussian data z_t is Gaussian with variance alpha^2 std^2 + sigma^2, and the flow
  # keeps each point's place in it: z_t = x sqrt(that) / std.
  x, z, _, (alpha, sigma) = _there_and_back("v", 160, strength)
  expected = x * np.sqrt(alpha**2 * STD**2 + sigma**2) / STD
  np.testing.assert_allclose(z, expected, atol=0.1)


def test_a_cut_grid_begins_at_its_level_and_ends_as_before():
  grid = grid_lib.make(_process("v"), 20, "trailing")
  cut = grid_lib.cut(grid, 0.5 * 999)
  assert cut[0] == 499.5 and cut[-1] == grid[-1] and (np.diff(cut) < 0).all()
  np.testing.assert_array_equal(cut[1:], grid[grid < 499.5])
  np.testing.assert_array_equal(grid_lib.cut(grid, 999.0), grid)
