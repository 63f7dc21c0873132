# SPDX-License-Identifier: Apache-2.0
"""Prediction types: each raw output stands for one (x0, eps), at every level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import config
from lamd_jax.diffusion import process as process_lib
from lamd_jax.errors import ConfigError


def make(prediction, zero_terminal_snr=False):
  settings = config.defaults().diffusion
  settings.prediction = prediction
  settings.zero_terminal_snr = zero_terminal_snr
  return process_lib.from_config(settings)


def normal(seed, *shape):
  draw = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(draw, jnp.float32)


@pytest.mark.parametrize("prediction", process_lib.PREDICTIONS)
@pytest.mark.parametrize("t", [[0.0, 400.25, 999.0], [[3.0, 3.5], [500, 2], [999, 0]]])
def test_split_inverts_target(prediction, t):
  process, t = make(prediction), jnp.asarray(t, jnp.float32)
  x0, noise = normal(0, 3, 2, 4, 4, 3), normal(1, 3, 2, 4, 4, 3)

  @jax.jit
  def there_and_back(x0, noise, t):
    z, raw = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    back = process.split(raw, z, t)
    return raw, *back, process.target(*back, t)

  raw, got_x0, got_noise, again = there_and_back(x0, noise, t)
  # eps cannot say much of x0 where alpha is small, nor x0 of eps where sigma is:
  # float32 rounding is amplified by sigma/alpha (39 at most) and alpha/sigma (26).
  np.testing.assert_allclose(got_x0, x0, atol=4e-5)
  np.testing.assert_allclose(got_noise, noise, atol=4e-5)
  np.testing.assert_allclose(again, raw, atol=4e-5)


def test_time_per_frame_equals_time_per_clip_frame_by_frame():
  process = make("v")
  x0, noise = normal(0, 2, 3, 4, 4, 1), normal(1, 2, 3, 4, 4, 1)
  t = jnp.asarray([[1.0, 50.0, 999.0], [7.5, 0.0, 300.0]])
  whole = process.add_noise(x0, noise, t)
  for frame in range(3):
    alone = process.add_noise(x0[:, frame : frame + 1], noise[:, frame : frame + 1],
                              t[:, frame])  # fmt: skip
    np.testing.assert_array_equal(whole[:, frame : frame + 1], alone)


@pytest.mark.parametrize("prediction", ["x0", "v", "flow"])
def test_no_signal_at_the_last_level_is_harmless(prediction):
  process = make(prediction, zero_terminal_snr=True)
  t = jnp.full((2,), 999.0)
  x0, noise = normal(0, 2, 1, 2, 2, 1), normal(1, 2, 1, 2, 2, 1)
  z = process.add_noise(x0, noise, t)
  np.testing.assert_array_equal(z, noise)
  got_x0, got_noise = process.split(process.target(x0, noise, t), z, t)
  np.testing.assert_allclose(got_x0, x0, atol=1e-6)
  np.testing.assert_allclose(got_noise, noise, atol=1e-6)
  assert np.all(process.snr(t) == 0)


def test_snr_is_alpha_bar_over_the_rest():
  process = make("eps")
  t = jnp.asarray([0.0, 100.0, 999.0])
  bar = process.schedule.alpha_bar[[0, 100, 999]]
  # specs of the reference: alpha_bar at 0, 100, 999 is .9985, .8288, 6.69e-4
  np.testing.assert_allclose(bar, [0.9985, 0.8288, 6.69e-4], rtol=1e-3)
  np.testing.assert_allclose(process.snr(t), bar / (1 - bar), rtol=1e-5)


def test_eps_is_refused_where_it_says_nothing():
  with pytest.raises(ConfigError, match="zero_terminal_snr"):
    make("eps", zero_terminal_snr=True)


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("prediction", "score", "score.*eps, x0, v, flow"),
    ("schedule", "sigmoid", "sigmoid.*linear, scaled_linear, cosine"),
  ],
)
def test_unknown_names_are_refused(key, value, message):
  settings = config.defaults().diffusion
  settings[key] = value
  with pytest.raises(ConfigError, match=message):
    process_lib.from_config(settings)


def test_prediction_and_schedule_must_go_together():
  with pytest.raises(ConfigError, match="straight"):
    process_lib.Process(make("v").schedule, "flow")
  with pytest.raises(ConfigError, match="straight"):
    process_lib.Process(make("flow").schedule, "v")


def test_closes_over_in_jit():
  process = make("v")
  x0, t = normal(0, 2, 1, 2, 2, 1), jnp.asarray([10.0, 20.5])
  jitted = jax.jit(lambda x, t: process.target(x, x, t))
  np.testing.assert_allclose(jitted(x0, t), process.target(x0, x0, t), rtol=1e-6)
  assert hash(process) is not None
