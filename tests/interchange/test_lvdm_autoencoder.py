# SPDX-License-Identifier: Apache-2.0
"""Names of released autoencoders: strict, bit-equal both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder
from lamd_jax.networks.image_autoencoder import ImageAutoencoder
from lamd_jax.networks.video_autoencoder import VideoAutoencoder
from lamd_jax.nn import initializers

VIDEO = jax.ShapeDtypeStruct((1, 4, 8, 8, 3), jnp.float32)
NETWORKS = {
  "video": (VideoAutoencoder(4, (2, 4, 4), 2, 4), lvdm_autoencoder.video_rules),
  "image": (ImageAutoencoder(4, (1, 2, 2), 1, 2, 4), lvdm_autoencoder.image_rules),
}


@pytest.fixture(params=NETWORKS)
def network(request):
  module, rules_of = NETWORKS[request.param]
  params = initializers.initialize(module, 0, VIDEO)["params"]
  return params, rules_of(params)


def test_round_trip_is_bit_equal(network):
  params, rules = network
  state = keys.to_state(params, rules)
  again = keys.to_params(state, rules, params)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_any_change_of_the_names_is_refused(network):
  params, rules = network
  state = keys.to_state(params, rules)
  for name in (rules[0].source, rules[-1].source):
    lost = {k: v for k, v in state.items() if k != name}
    with pytest.raises(WeightsError, match=f"{name} is missing"):
      keys.to_params(lost, rules, params)
    with pytest.raises(WeightsError, match="else is unused"):
      keys.to_params({**lost, "else": state[name]}, rules, params)


def test_a_parameter_without_a_place_is_named():
  for _, rules_of in NETWORKS.values():
    with pytest.raises(WeightsError, match="no place for decoder/extra_0/kernel"):
      rules_of({"decoder": {"extra_0": {"kernel": np.zeros(1)}}})
