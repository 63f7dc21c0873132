# SPDX-License-Identifier: Apache-2.0
"""Streams depend on name, step and example, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng


def _streams(step=3):
  return rng.Streams(rng.root(0), jnp.int32(step))


def test_rows_follow_the_example_not_its_place():
  whole = _streams().normal("noise", jnp.arange(6), (2, 3))
  part = _streams().normal("noise", jnp.array([4, 1]), (2, 3))
  np.testing.assert_array_equal(part, whole[jnp.array([4, 1])])


def test_names_and_steps_give_other_numbers():
  index = jnp.arange(2)
  base = _streams().normal("noise", index, (4,))
  for other in (
    _streams().normal("posterior", index, (4,)),
    _streams(4).normal("noise", index, (4,)),
  ):
    assert abs(np.asarray(base - other)).min() > 0


def test_moments():
  index = jnp.arange(20_000)
  normal = np.asarray(_streams().normal("a", index, ()))
  uniform = np.asarray(_streams().uniform("b", index))
  whole = np.asarray(_streams().integers("c", index, 10))
  # Five standard errors of the mean of 20,000 draws.
  assert abs(normal.mean()) < 0.036 and abs(normal.std() - 1) < 0.026
  assert abs(uniform.mean() - 0.5) < 0.0103
  assert set(whole) == set(range(10)) and abs(whole.mean() - 4.5) < 0.102


def test_streams_do_not_change_between_versions():
  # Recorded once: a resumed run must draw what the run before it would have drawn.
  data = jax.random.key_data(rng.stream(rng.root(7), "noise", 5))
  assert data.tolist() == [678291591, 1842372535]
