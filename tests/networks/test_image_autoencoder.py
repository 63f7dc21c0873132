# SPDX-License-Identifier: Apache-2.0
"""The per-frame autoencoder; tools.parity's tests compare its numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder
from lamd_jax.networks.image_autoencoder import ImageAutoencoder
from lamd_jax.nn import initializers


def test_full_size_has_the_release_s_tensors_one_to_one(fixtures):
  full = ImageAutoencoder(128, (1, 2, 4, 4), 2, 4, 32)
  video = jax.ShapeDtypeStruct((1, 2, 256, 256, 3), jnp.float32)
  params = initializers.shapes(full, video)["params"]
  # Stable Diffusion's count (pretrained parts, section 1).
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 83_653_863
  recorded = json.loads((fixtures / "lvdm" / "lvdm_full_keys.json").read_text())
  wanted = {k: tuple(v) for k, v in recorded["ae2d_t2v"].items()}
  rules = lvdm_autoencoder.image_rules(params)
  assert keys.source_shapes(params, rules) == wanted
  moments, _ = jax.eval_shape(
    lambda p, x: full.apply({"params": p}, x, method="encode"), params, video
  )
  assert moments.shape == (1, 2, 32, 32, 4)


def test_frames_do_not_see_each_other():
  net = ImageAutoencoder(4, (1, 2), 1, 2, 4)
  rng = np.random.default_rng(0)
  x = rng.uniform(-1, 1, (2, 3, 8, 8, 3)).astype(np.float32)
  variables = initializers.initialize(net, 0, x)
  apply = jax.jit(lambda x: net.apply(variables, x))
  y = apply(x)
  other = x.copy()
  other[0, 1] = rng.uniform(-1, 1, (8, 8, 3))
  changed = np.abs(apply(other) - y).max((2, 3, 4)) > 1e-6
  np.testing.assert_array_equal(changed, [[False, True, False], [False] * 3])


def test_decode_is_output_of_features():
  net = ImageAutoencoder(4, (1, 2), 1, 2, 4)
  z = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 2), np.float32)
  variables = initializers.initialize(net, 0, jnp.zeros((1, 1, 8, 8, 3)))
  run = lambda method, x: jax.jit(lambda x: net.apply(variables, x, method=method))(x)
  features = run("decode_features", z)
  assert features.shape == (2, 3, 8, 8, 4)
  rebuilt = run("output", features)
  np.testing.assert_allclose(rebuilt, run("decode", z), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  "channels, size, message",
  [(6, 8, "must be multiples of groups"), (8, 7, r"\(7, 8\).*cannot be reduced by 2")],
)
def test_impossible_settings_are_one_line(channels, size, message):
  video = jax.ShapeDtypeStruct((1, 1, size, 8, 3), jnp.float32)
  with pytest.raises(ConfigError, match=message):
    initializers.shapes(ImageAutoencoder(channels, (1, 2), 1, 2, 4), video)
