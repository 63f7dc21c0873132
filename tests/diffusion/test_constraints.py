# SPDX-License-Identifier: Apache-2.0
"""What constraints do to a state."""

import jax.numpy as jnp
import numpy as np

from lamd_jax import config
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib

SHAPE = (2, 3, 2, 2, 1)


def normal(seed):
  draw = np.random.default_rng(seed).standard_normal(SHAPE)
  return jnp.asarray(draw, jnp.float32)


def test_known_frames_are_overwritten_and_others_untouched():
  mask = jnp.asarray([[1, 0, 0], [0, 0, 1]], jnp.float32).reshape(2, 3, 1, 1, 1)
  z, value = normal(0), normal(1)
  got = constraints.known_frames(mask, value)(z, jnp.zeros(2))
  np.testing.assert_array_equal(got[0, 0], value[0, 0])
  np.testing.assert_array_equal(got[1, 2], value[1, 2])
  np.testing.assert_array_equal(got[0, 1:], z[0, 1:])
  np.testing.assert_array_equal(got[1, :2], z[1, :2])


def test_unknown_values_may_be_anything():
  mask = jnp.zeros((2, 3, 1, 1, 1))
  project = constraints.known_frames(mask, jnp.full(SHAPE, jnp.nan))
  got = project(normal(0), jnp.zeros(2))
  np.testing.assert_array_equal(got, normal(0))


def test_masked_editing_keeps_the_rest_at_the_state_s_own_level():
  process = process_lib.from_config(config.defaults().diffusion)
  clean, noise, z = normal(0), normal(1), normal(2)
  mask = jnp.zeros((1, 1, 2, 2, 1)).at[0, 0, 0].set(1).at[0, 0, 1].set(0.25)
  project = constraints.masked(mask, constraints.noised(process, clean, noise))
  for level in (0.0, 500.0):
    t = jnp.full((2,), level)
    got, at_level = project(z, t), process.add_noise(clean, noise, t)
    np.testing.assert_array_equal(got[:, :, 0], z[:, :, 0])
    blend = 0.25 * z + 0.75 * at_level
    np.testing.assert_allclose(got[:, :, 1], blend[:, :, 1], rtol=1e-6)
  # At the clean end the rest is the value itself.
  got = project(z, jnp.full((2,), -1.0))
  blend = 0.25 * z + 0.75 * clean
  np.testing.assert_allclose(got[:, :, 1], blend[:, :, 1], rtol=1e-6)
