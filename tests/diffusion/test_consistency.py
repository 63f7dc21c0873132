# SPDX-License-Identifier: Apache-2.0
"""Consistency functions on Gaussians, where the path of every state is known.

For data N(mu, diag s^2) the ODE keeps (z - mean_t)/std_t, so the consistency function is
mu + s (z - alpha_t mu) / sqrt(alpha_t^2 s^2 + sigma_t^2).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import config
from lamd_jax import types
from lamd_jax.diffusion import consistency
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.samplers import grid as grid_lib
from lamd_jax.diffusion.samplers import multistep_consistency

MU = np.array([0.0, -2.0, 0.3, 1.0], np.float32)
STD = np.array([1.0, 0.5, 0.2, 2.0], np.float32)
NOTHING = types.Conditions()
PREDICTIONS = ("eps", "x0", "v", "flow", "v_zero_snr")


def make(name):
  settings = config.defaults().diffusion
  settings.prediction = name.removesuffix("_zero_snr")
  settings.zero_terminal_snr = name.endswith("_zero_snr")
  return process_lib.from_config(settings)


def _levels(process, t):
  return (a[:, None, None, None, None] for a in process.alpha_sigma(t))


def best(process):
  """The denoiser that minimises the usual loss: its x0 is the mean given z."""

  def denoise(z, t, conditions):
    alpha, sigma = _levels(process, t)
    variance = alpha**2 * STD**2 + sigma**2
    x0 = MU + STD**2 * alpha / variance * (z - alpha * MU)
    return process.target(x0, sigma * (z - alpha * MU) / variance, t)

  return denoise


def exact(process):
  """A denoiser whose x0 is where the path ends."""

  def denoise(z, t, conditions):
    alpha, sigma = _levels(process, t)
    x0 = MU + STD * (z - alpha * MU) / jnp.sqrt(alpha**2 * STD**2 + sigma**2)
    return process.target(x0, (z - alpha * x0) / sigma, t)

  return denoise


def normal(seed, rows=256):
  draw = np.random.default_rng(seed).standard_normal((rows, 1, 1, 1, 4))
  return jnp.asarray(draw, jnp.float32)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_at_the_clean_end_it_is_the_state_itself(name):
  process, z = make(name), normal(0, 8)
  wild = lambda z, t, conditions: 100 * jnp.sin(50 * z) + t.reshape(-1, 1, 1, 1, 1)
  f = consistency.function(wild, process)
  np.testing.assert_array_equal(f(z, jnp.full(8, -1.0), NOTHING), z)
  # And nothing of the state is left in it from the lowest trained level on.
  assert float(consistency.skip_weight(process, jnp.zeros(1))[0]) < 2e-3


@pytest.mark.parametrize("name", PREDICTIONS)
def test_loss_is_zero_for_the_paths_ends_and_not_for_a_denoiser(name):
  process = make(name)
  x0, noise = MU + STD * normal(1), normal(2)

  def loss(student, skip, lowest=0):
    t = jnp.linspace(lowest, 999, 256).round()
    values = consistency.loss(
      student, student, best(process), process, x0, noise, t, skip, NOTHING, "l2"
    )
    return float(values.mean())

  ours, denoiser = loss(exact(process), 20), loss(best(process), 20)
  assert ours < 1e-2 * denoiser
  # DDIM's error in one step is of second order, its square of fourth: 16 at half, where
  # a step is short beside the level.
  far, near = (loss(exact(process), skip, 400) for skip in (40, 20))
  assert 10 < far / near < 22


def test_only_the_student_learns():
  process = make("v")
  x0, noise, t = normal(1, 4), normal(2, 4), jnp.array([3.0, 100.0, 500.0, 999.0])
  of = lambda p: lambda z, t, conditions: p * z

  def loss(p):
    return consistency.loss(
      of(p[0]), of(p[1]), of(p[2]), process, x0, noise, t, 20, NOTHING, "pseudo_huber"
    ).mean()

  gradient = jax.grad(loss)(jnp.array([0.1, 0.2, 0.3]))
  assert gradient[0] != 0 and gradient[1] == 0 and gradient[2] == 0


def test_pseudo_huber_is_the_papers_over_the_root_of_the_size():
  d = 3 * normal(3, 2)
  size = d[0].size
  c = 0.00054 * np.sqrt(size)
  paper = np.sqrt((np.asarray(d, np.float64) ** 2).sum((1, 2, 3, 4)) + c**2) - c
  found = consistency.pseudo_huber(d)
  np.testing.assert_allclose(found, paper / np.sqrt(size), rtol=1e-6)
  np.testing.assert_allclose(consistency.squared(d), (d[:, 0, 0, 0] ** 2).mean(1), rtol=1e-6)


@pytest.mark.parametrize("name", ["eps", "flow"])
@pytest.mark.parametrize("steps", [1, 4])
def test_samples_have_the_datas_moments(name, steps):
  """By the chain's affine response to its start and to each step's noise: no draws."""
  process = make(name)
  grid = grid_lib.make(process, steps, "trailing")
  alpha, sigma = process.schedule.at(grid[:1])
  # Rows: no input; a unit deviation of the start; unit noise at each step alone.
  start = np.tile(alpha * MU, (steps + 2, 1))
  start[1] += np.sqrt(alpha**2 * STD**2 + sigma**2)
  rows = jnp.arange(steps + 2).reshape(-1, 1, 1, 1, 1)

  def moments(denoise):
    z = jnp.asarray(start[:, None, None, None], jnp.float32)
    noise = lambda i: (rows == i + 2) * jnp.ones(z.shape)
    made = multistep_consistency.sample(
      denoise, process, z, NOTHING, grid=grid, noise=noise, eta=0.0
    ).reshape(-1, 4)
    return made[0], jnp.sqrt(((made[1:] - made[0]) ** 2).sum(0))

  mean, std = moments(exact(process))
  np.testing.assert_allclose(mean, MU, atol=1e-5)
  np.testing.assert_allclose(std, STD, rtol=1e-4)
  _, blurred = moments(best(process))
  assert float((blurred / STD).max()) < 0.95  # a denoiser is no consistency function
