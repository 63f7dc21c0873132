# SPDX-License-Identifier: Apache-2.0
"""Time and class embeddings."""

import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.nn import embeddings
from lamd_jax.nn import initializers


@pytest.mark.parametrize("features", [64, 65])
def test_sinusoidal_as_recorded(fixtures, features):
  with np.load(fixtures / "lvdm" / "lvdm_ops.npz", allow_pickle=False) as data:
    t, expected = data["temb_t"].astype(np.float32), data[f"temb_dim{features}"]
  # At t = 999 the last bit of a frequency is worth 3e-5.
  np.testing.assert_allclose(embeddings.sinusoidal(t, features), expected, atol=5e-5)


def test_sinusoidal_takes_fractions_and_a_time_per_frame():
  whole = embeddings.sinusoidal(jnp.array([[1.0, 2.0]]), 8)
  half = embeddings.sinusoidal(jnp.array([[1.5, 1.5]]), 8)
  assert whole.shape == (1, 2, 8)
  # The first frequency is 1, so the cosine is that of t.
  np.testing.assert_allclose(half[..., 0], np.cos(1.5), rtol=1e-6)


def test_class_table_exists_without_classes_and_out_of_range_is_nan():
  module = embeddings.ClassEmbedding(classes=3, features=4)
  params = initializers.initialize(module, 0, None)
  assert params["params"]["table"].shape == (3, 4)
  assert module.apply(params, None) is None
  index = jnp.array([2, 3])
  out = np.asarray(module.apply(params, index))
  np.testing.assert_array_equal(out[0], params["params"]["table"][2])
  assert np.isnan(out[1]).all()
