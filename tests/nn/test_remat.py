# SPDX-License-Identifier: Apache-2.0
"""Autoencoders whose blocks are computed anew; the UNet's are in its own tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.networks.image_autoencoder import ImageAutoencoder
from lamd_jax.networks.motion_autoencoder import MotionAutoencoder
from lamd_jax.networks.video_autoencoder import VideoAutoencoder
from lamd_jax.nn import initializers

X = np.random.default_rng(0).uniform(-1, 1, (1, 4, 8, 8, 3)).astype(np.float32)
# With an attention in each part that may have one.
MOTION = dict(
  latent_channels=2, patch=1, content_channels=4, content_mult=(1, 2), content_blocks=1,
  content_attention=True, content_groups=4, encoder_widths=(4, 4),
  decoder_widths=(4, 4), decoder_blocks=1, decoder_attention=True, fusion="concat",
  groups=4,
)  # fmt: skip
NETWORKS = {
  "video": lambda how: VideoAutoencoder(2, (2, 2, 2), 2, 4, how),
  "image": lambda how: ImageAutoencoder(4, (1, 2), 1, 2, 4, how),
  "motion": lambda how: MotionAutoencoder(4, **MOTION, remat=how),
}


def _gradient(network, how):
  net = NETWORKS[network](how)
  return jax.grad(lambda p: jnp.square(net.apply({"params": p}, X)).mean())


@pytest.mark.parametrize("network", NETWORKS)
def test_remat_changes_no_gradient_and_recomputes_what_it_says(network):
  params = initializers.initialize(NETWORKS[network]("none"), 0, X)["params"]
  # Each runs once, so compile fast.
  options = {"xla_backend_optimization_level": 0}
  run = lambda how: jax.jit(_gradient(network, how), compiler_options=options)(params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    run("full"), run("none"),
  )  # fmt: skip
  text = {how: str(jax.make_jaxpr(_gradient(network, how))(params))
          for how in ("none", "full", "names")}  # fmt: skip
  convolutions = {how: text[how].count("conv_general_dilated[") for how in text}
  # "full" runs the blocks' convolutions twice, "names" keeps what they gave and does
  # the rest of a block twice, such as its SiLUs.
  assert convolutions["full"] > convolutions["names"] == convolutions["none"]
  assert text["names"].count("= logistic ") > text["none"].count("= logistic ")


@pytest.mark.parametrize("network", NETWORKS)
def test_remat_changes_no_parameter(network):
  shapes = lambda how: initializers.shapes(NETWORKS[network](how), X)
  assert shapes("full") == shapes("none") == shapes("names")
