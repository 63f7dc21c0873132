# SPDX-License-Identifier: Apache-2.0
"""Samplers on Gaussians, where the best denoiser and all answers have closed forms.

Data are N(mu, diag s^2); the coordinates of a state are independent, each with its own
mu and s. Chains are affine in start and noise, so that moments come from a few chains
with unit inputs instead of from many draws, and are compared without a sampling error.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import config
from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import samplers
from lamd_jax.diffusion.samplers import grid as grid_lib
from lamd_jax.errors import ConfigError

# Programs run once: compiling fast beats running fast.
COMPILE = {"xla_backend_optimization_level": 0}
MU = np.array([0.0, -2.0, 0.3, 1.0])
STD = np.array([1.0, 0.5, 0.2, 2.0])
DETERMINISTIC = ("dpmpp_2m", "unipc", "heun", "euler")
PROCESSES = ("eps", "x0", "v", "flow", "v_zero_snr")


def make(name, steps=1000):
  settings = config.defaults().diffusion
  settings.steps = steps
  settings.prediction = name.removesuffix("_zero_snr")
  settings.zero_terminal_snr = name.endswith("_zero_snr")
  return process_lib.from_config(settings)


@dataclasses.dataclass
class Gaussian:
  """The data, and the denoiser that minimises the loss on them."""

  process: process_lib.Process
  mu: np.ndarray = dataclasses.field(default_factory=lambda: MU)
  std: np.ndarray = dataclasses.field(default_factory=lambda: STD)

  def moments(self, position):
    """Mean and standard deviation of z at a position, [C] float64."""
    alpha, sigma = self.process.schedule.at(np.asarray(position, np.float64))
    return alpha * self.mu, np.sqrt(alpha**2 * self.std**2 + sigma**2)

  def denoise(self, z, t, conditions):
    alpha, sigma = (a[:, None, None, None, None] for a in self.process.alpha_sigma(t))
    gain = self.std**2 * alpha / (alpha**2 * self.std**2 + sigma**2)
    x0 = self.mu + gain * (z - alpha * self.mu)
    # E[eps | z] where sigma (z - alpha mu) / variance, sane at both ends.
    eps = sigma * (z - alpha * self.mu) / (alpha**2 * self.std**2 + sigma**2)
    return self.process.target(x0, eps, t)

  def run(self, sampler, z, grid, noise=None, **kwargs):
    z = np.asarray(z)[:, None, None, None]
    if noise is not None:
      inner = noise
      noise = lambda i: inner(i)[:, None, None, None]
    sample = functools.partial(
      samplers.SAMPLERS[sampler], self.denoise, self.process, conditions=None
    )
    chain = lambda z: sample(z=z, grid=grid, noise=noise, **kwargs)
    states = jax.jit(chain, compiler_options=COMPILE)(z)
    return np.asarray(states).reshape(-1, len(z), len(self.mu))

  def result_moments(self, sampler, grid, eta=0.0, dtype=np.float64):
    """Mean and standard deviation of a chain's states [S,C], by its affine response."""
    steps = len(grid) - 1
    mean, std = self.moments(grid[0])
    # Rows: no input; a unit deviation of the start; unit noise at each step alone.
    z = np.tile(mean, (steps + 2, 1))
    z[1] += std
    rows = np.arange(steps + 2)[:, None]
    noise = lambda i: jnp.asarray(rows == i + 2, dtype) * jnp.ones(len(mean), dtype)
    states = self.run(
      sampler, z.astype(dtype), grid, noise, eta=eta, return_states=True
    )
    response = states[:, 1:] - states[:, :1]
    return states[:, 0], np.sqrt((response**2).sum(1))


def exact_flow(gaussian, z, grid):
  """The probability-flow ODE keeps (z - mean)/std: its end, from z [B,C]."""
  (mean_0, std_0), (mean_1, std_1) = map(gaussian.moments, (grid[0], grid[-1]))
  return mean_1 + std_1 * (z - mean_0) / std_0


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
  "sampler, eta, tolerance",
  [
    # First order over 249 steps, then the higher orders; relative to the deviation.
    ("ddpm", 0.0, 3e-2),
    ("ddim", 1.0, 3e-2),
    ("ddim", 0.0, 2e-2),
    ("euler", 0.0, 2e-2),
    ("heun", 0.0, 2e-3),
    ("dpmpp_2m", 0.0, 2e-3),
    ("unipc", 0.0, 2e-3),
  ],
)
def test_moments_are_those_of_the_process(name, sampler, eta, tolerance):
  gaussian = Gaussian(make(name))
  # To level 0, not to clean: the step there gives E[x0|z], whose variance is less.
  grid = grid_lib.make(gaussian.process, 250)[:-1]
  with jax.enable_x64(True):
    mean, std = gaussian.result_moments(sampler, grid, eta)
  expected_mean, expected_std = gaussian.moments(grid[-1])
  off = (mean[-1] - expected_mean) / expected_std
  np.testing.assert_allclose(off, 0, atol=tolerance)
  np.testing.assert_allclose(std[-1] / expected_std, 1, atol=tolerance)


@pytest.mark.parametrize("name", ["eps", "flow"])
@pytest.mark.parametrize(
  "sampler, order", [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("unipc", 3)]
)
def test_order_of_convergence(name, sampler, order):
  """The error at a fixed end falls as steps^-order, with strides that alternate 2:1."""
  gaussian = Gaussian(make(name))
  levels = np.arange(970.0, 9, -1)
  alpha, sigma = gaussian.process.schedule.at(levels)
  clock = np.log(alpha / sigma)
  errors, counts = [], (30, 60)
  with jax.enable_x64(True):
    z = np.random.default_rng(0).standard_normal((2, 4))
    for steps in counts:
      # In log-SNR; unequal, as multistep methods must know the ratio of their strides.
      way = np.append(0, np.cumsum(np.tile([2, 1], steps // 2)) / (1.5 * steps))
      grid = np.interp(clock[0] + way * (clock[-1] - clock[0]), clock, levels)
      z0 = gaussian.run(sampler, z, grid, eta=0.0)[0]
      errors.append(np.abs(z0 - exact_flow(gaussian, z, grid)).max())
  slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
  assert abs(slope - order) < 0.1, f"{errors} fall with order {slope:.2f}"


def test_ddpm_is_exact_at_every_level_for_a_point():
  """With x0 known, each posterior step maps marginal to marginal, however long."""
  gaussian = Gaussian(make("eps"), mu=MU, std=np.zeros(4))
  grid = np.array([999.0, 998, 700, 500.5, 100, 99, 1, 0])
  with jax.enable_x64(True):
    mean, std = gaussian.result_moments("ddpm", grid)
  for i, position in enumerate(grid[1:]):
    expected_mean, expected_std = gaussian.moments(position)
    np.testing.assert_allclose(mean[i], expected_mean, atol=1e-12)
    np.testing.assert_allclose(std[i], expected_std, rtol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_ddim_with_eta_1_is_ddpm(name):
  """The same chain for the same noise, on every level; and eta=0 is another."""
  gaussian = Gaussian(make(name, steps=50))
  grid = grid_lib.make(gaussian.process, 50)
  z = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
  draws = np.random.default_rng(2).standard_normal((50, 3, 4)).astype(np.float32)
  noise = lambda i: jnp.asarray(draws)[i]
  ddpm = gaussian.run("ddpm", z, grid, noise, eta=0.0, return_states=True)
  ddim = gaussian.run("ddim", z, grid, noise, eta=1.0, return_states=True)
  still = gaussian.run("ddim", z, grid, noise, eta=0.0, return_states=True)
  assert ddpm.shape == (50, 3, 4)
  np.testing.assert_allclose(ddim, ddpm, atol=2e-4)
  assert np.abs(still - ddpm).max() > 0.1


@pytest.mark.parametrize("name", PROCESSES)
def test_euler_is_ddim_without_noise(name):
  gaussian = Gaussian(make(name))
  grid = grid_lib.make(gaussian.process, 20)
  z = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
  euler, ddim = (gaussian.run(s, z, grid, eta=0.0) for s in ("euler", "ddim"))
  np.testing.assert_allclose(euler, ddim, atol=2e-5)


@pytest.mark.parametrize(
  "name, steps", [("flow", 3), ("v_zero_snr", 1), ("v_zero_snr", 2)]
)
@pytest.mark.parametrize("sampler", sorted(samplers.SAMPLERS))
def test_few_steps_are_finite_and_end_at_the_mean_for_a_point(name, sampler, steps):
  """x0 is predicted rightly from anywhere, so a step to clean gives it."""
  gaussian = Gaussian(make(name), std=np.zeros(4))
  grid = grid_lib.make(gaussian.process, steps)
  z = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
  z0 = gaussian.run(sampler, z, grid, lambda i: jnp.ones(z.shape), eta=0.0)[0]
  np.testing.assert_allclose(z0, np.tile(MU, (2, 1)), atol=1e-5)


@pytest.mark.parametrize("sampler", sorted(samplers.SAMPLERS))
def test_constraint_comes_before_every_call_and_not_after_the_last(sampler):
  process, steps = make("v"), 4
  grid = grid_lib.make(process, steps)
  mask = jnp.asarray([1.0, 0, 0]).reshape(1, 3, 1, 1, 1)
  value = jnp.full((1, 3, 2, 2, 1), 7.0)
  seen = []

  def denoise(z, t, conditions):
    jax.debug.callback(lambda z, t: seen.append((float(t[0]), z[0, :, 0, 0, 0])), z, t)
    return 0.1 * z

  z = np.random.default_rng(0).standard_normal(value.shape).astype(np.float32)
  states = samplers.SAMPLERS[sampler](
    denoise,
    process,
    z,
    types.Conditions(),
    grid=grid,
    noise=lambda i: jnp.zeros(z.shape),
    eta=0.0,
    constraint=constraints.known_frames(mask, value),
    return_states=True,
  )
  jax.effects_barrier()
  expected = np.repeat(grid[:-1], 2)[1:] if sampler == "heun" else grid[:-1]
  np.testing.assert_allclose([t for t, _ in sorted(seen, key=lambda c: -c[0])],
                             np.sort(expected)[::-1], rtol=1e-6)  # fmt: skip
  assert all(frames[0] == 7 for _, frames in seen)
  assert all(np.all(frames[1:] != 7) for _, frames in seen)
  assert states.shape == (steps, *value.shape)
  assert np.all(states[-1][0, 0] != 7)


@pytest.mark.parametrize("sampler", ["ddpm", "heun", "unipc"])
def test_last_state_is_the_result(sampler):
  gaussian = Gaussian(make("v"))
  grid = grid_lib.make(gaussian.process, 5)
  z = np.ones((2, 4), np.float32)
  noise = lambda i: jnp.ones(z.shape)
  z0 = gaussian.run(sampler, z, grid, noise, eta=0.0)
  states = gaussian.run(sampler, z, grid, noise, eta=0.0, return_states=True)
  assert states.shape == (5, 2, 4)
  np.testing.assert_allclose(states[-1], z0[0], rtol=1e-6)
  assert np.all(np.abs(np.diff(states, axis=0)).max((1, 2)) > 1e-4)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_samplers_refuse_noise(sampler):
  gaussian = Gaussian(make("v"))
  with pytest.raises(ConfigError, match=f"eta=0.5.*{sampler}.*eta=0"):
    gaussian.run(sampler, np.ones((1, 4)), np.array([9.0, 0]), eta=0.5)


def test_eta_beyond_one_is_refused():
  with pytest.raises(ConfigError, match="eta=1.5"):
    Gaussian(make("v")).run("ddim", np.ones((1, 4)), np.array([9.0, 0]), eta=1.5)


@pytest.mark.parametrize("grid", [[5.0], [5, 5], [5, 6], [1000, 0], [5, -1.5]])
def test_impossible_grids_are_refused(grid):
  with pytest.raises(ConfigError, match="grid"):
    Gaussian(make("v")).run("ddim", np.ones((1, 4)), np.array(grid, float), eta=0.0)


def test_dpm_solver_s_second_step_by_hand():
  """Algorithm 2 in the paper's letters. (A wrong r would telescope out of the order.)"""
  gaussian = Gaussian(make("x0"))
  grid = np.array([900.0, 500, 400])
  alpha, sigma = gaussian.process.schedule.at(grid)
  h = np.diff(np.log(alpha / sigma))
  predict = lambda z, i: np.asarray(
    gaussian.denoise(z[:, None, None, None], jnp.full(1, grid[i]), None)
  ).reshape(1, 4)
  with jax.enable_x64(True):
    z = np.array([[0.3, -1.0, 2.0, 0.1]])
    x0 = predict(z, 0)
    middle = sigma[1] / sigma[0] * z - alpha[1] * np.expm1(-h[0]) * x0
    r = h[0] / h[1]
    d = (1 + 1 / (2 * r)) * predict(middle, 1) - 1 / (2 * r) * x0
    expected = sigma[2] / sigma[1] * middle - alpha[2] * np.expm1(-h[1]) * d
    got = gaussian.run("dpmpp_2m", z, grid, eta=0.0)[0]
  np.testing.assert_allclose(got, expected, rtol=1e-9)
