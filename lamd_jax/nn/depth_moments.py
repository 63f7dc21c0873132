# SPDX-License-Identifier: Apache-2.0
"""Running statistics of depth latents, and depth latents standardised by them.

Most of a depth map is the ground, which runs from near to far alike in every clip; the
objects on it are small deviations. On the procedural world the latents of depth vary
from clip to clip 15 times less than those of pixels, so that a network whose input
kernel for them starts at zero hardly learns to see them. Hence a mean for every
position, which takes the ground away, and a variance for every channel, which brings
the rest to the spread of the noisy latents that it joins.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import latent_norm

MEAN, VARIANCE, COUNT = "depth_mean", "depth_variance", "depth_count"
Statistics = Mapping[str, jax.Array]


def initial(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
  """Statistics before any batch, for latents [h,w,c]."""
  return {
    MEAN: np.zeros(shape, np.float32),
    VARIANCE: np.ones(shape[-1:], np.float32),
    COUNT: np.zeros((), np.float32),
  }


def measured(extras: Statistics, z: jax.Array, momentum: float) -> dict[str, jax.Array]:
  """Returns `extras` with the statistics of z [B,T,h,w,c] taken in."""
  count = extras[COUNT] + 1
  old = latent_norm.Moments(extras[MEAN], extras[VARIANCE])
  mean = z.mean((0, 1))
  new = latent_norm.Moments(mean, jnp.square(z - mean).mean((0, 1, 2, 3)))
  found = latent_norm.running(old, new, latent_norm.share(count, momentum))
  return {**extras, MEAN: found.mean, VARIANCE: found.variance, COUNT: count}


def standardise(z: jax.Array, extras: Statistics) -> jax.Array:
  """Returns z [B,T,h,w,c] with mean 0 and variance 1 by the statistics of the data.

  Edits of videos come in other heights and widths; the map of means is stretched.
  """
  mean = extras[MEAN]
  if mean.shape != z.shape[2:]:
    mean = jax.image.resize(mean, z.shape[2:], "linear")
  of = latent_norm.Moments(mean, extras[VARIANCE])
  return latent_norm.NORMALIZE["batch"](z, of)
