# SPDX-License-Identifier: Apache-2.0
"""Schedules against the reference's float64 tables, and between the levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.diffusion import schedule as schedule_lib

LVDM = (1000, 0.0015, 0.0155)
TEXT_TO_VIDEO = (1000, 0.00085, 0.012)


@pytest.fixture(scope="module")
def recorded(fixtures):
  with np.load(fixtures / "lvdm" / "lvdm_schedule.npz") as data:
    return dict(data)


@pytest.mark.parametrize(
  "name, settings, key",
  [
    ("scaled_linear", LVDM, "uncond_betas"),
    ("scaled_linear", TEXT_TO_VIDEO, "t2v_betas"),
    ("linear", LVDM, "betas_sqrt_linear"),
    ("cosine", LVDM, "betas_cosine"),
  ],
)
def test_betas_are_the_reference_s(recorded, name, settings, key):
  betas = schedule_lib.BETAS[name](*settings)
  assert betas.dtype == np.float64
  np.testing.assert_allclose(betas, recorded[key], rtol=1e-11, atol=1e-15)


def test_sqrt_of_the_recorded_sqrt_schedule_is_linear(recorded):
  # The reference's "sqrt" is the root of our linear schedule.
  betas = schedule_lib.linear_betas(*LVDM)
  np.testing.assert_allclose(betas**0.5, recorded["betas_sqrt"], rtol=1e-13)


@pytest.mark.parametrize(
  "settings, prefix", [(LVDM, "uncond"), (TEXT_TO_VIDEO, "t2v")]
)
def test_alpha_bar_is_the_reference_s(recorded, settings, prefix):
  schedule = schedule_lib.from_betas("s", schedule_lib.scaled_linear_betas(*settings))
  expected = recorded[f"{prefix}_alphas_cumprod"]
  np.testing.assert_allclose(schedule.alpha_bar, expected, rtol=1e-12)


def _schedules():
  betas = schedule_lib.scaled_linear_betas(*LVDM)
  schedule = schedule_lib.from_betas("scaled_linear", betas)
  cosine = schedule_lib.from_betas("cosine", schedule_lib.cosine_betas(*LVDM))
  return [
    schedule,
    schedule_lib.zero_terminal_snr(schedule),
    cosine,
    schedule_lib.straight(1000),
  ]


@pytest.mark.parametrize("schedule", _schedules(), ids=lambda s: s.name)
def test_integer_positions_are_the_table_rounded_once(schedule):
  alpha, sigma = jax.jit(schedule.at)(jnp.arange(1000, dtype=jnp.float32))
  assert alpha.dtype == jnp.float32
  np.testing.assert_array_equal(alpha, schedule.alpha.astype(np.float32))
  np.testing.assert_array_equal(sigma, schedule.sigma.astype(np.float32))


@pytest.mark.parametrize("schedule", _schedules(), ids=lambda s: s.name)
def test_fractions_are_monotone_and_of_the_same_kind(schedule):
  t = np.linspace(-1, 999, 40_001)
  alpha, sigma = schedule.at(t)
  assert (alpha[0], sigma[0]) == (1, 0)
  assert np.all(np.diff(alpha) < 0) and np.all(np.diff(sigma) > 0)
  total = alpha**2 + sigma**2 if schedule.preserves_variance else alpha + sigma
  np.testing.assert_allclose(total, 1, rtol=1e-14)


def test_device_and_host_agree_on_fractions():
  schedule = _schedules()[0]
  t = np.random.default_rng(0).uniform(-1, 999, (7, 5)).astype(np.float32)
  on_device = schedule.at(jnp.asarray(t))
  assert on_device[0].shape == (7, 5)
  # float32 spacing of t near 1000 is 6e-5 of a level.
  np.testing.assert_allclose(on_device, schedule.at(t), rtol=2e-6)


def test_zero_terminal_snr_moves_the_last_level_and_keeps_the_first():
  before, after = _schedules()[:2]
  assert after.alpha_bar[-1] == 0 and after.sigma[-1] == 1
  np.testing.assert_allclose(after.alpha_bar[0], before.alpha_bar[0], rtol=1e-14)
  # Algorithm 1 is affine in sqrt(alpha_bar), so it keeps ratios of differences.
  ratio = lambda a: (a[300] - a[600]) / (a[100] - a[900])
  np.testing.assert_allclose(ratio(after.alpha), ratio(before.alpha), rtol=1e-12)


def test_straight_path_ends_in_pure_noise():
  schedule = schedule_lib.straight(4)
  np.testing.assert_array_equal(schedule.sigma, [0.25, 0.5, 0.75, 1])
  np.testing.assert_array_equal(schedule.alpha, [0.75, 0.5, 0.25, 0])
  assert schedule.at(np.array([1.5]))[1] == 0.625
