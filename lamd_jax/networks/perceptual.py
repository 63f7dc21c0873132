# SPDX-License-Identifier: Apache-2.0
"""LPIPS with VGG16 features (Zhang et al., arXiv 1801.03924), version 0.1.

A pure function of given weights: nothing here is initialised or trained. Without the
published weights there is no LPIPS; a random VGG would give plausible wrong numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.ops import conv as conv_ops

Params = Mapping[str, Any]

# torchvision's index of each 3x3 convolution of VGG16 and its output width. A 2x2
# max-pool stands before each convolution that begins a new stage.
_STAGES = (
  ((0, 64), (2, 64)),
  ((5, 128), (7, 128)),
  ((10, 256), (12, 256), (14, 256)),
  ((17, 512), (19, 512), (21, 512)),
  ((24, 512), (26, 512), (28, 512)),
)
# Normalisation of inputs in [-1,1]; version 0.0 lacks it.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)


def shapes() -> dict[str, Any]:
  """Returns the parameters as ShapeDtypeStructs, float32.

  {"features": {"0": {"kernel" [1,3,3,I,O], "bias" [O]}, "2": ...}, by torchvision's
  index, and "lins": {"0": [C], ..., "4": [C]}}, the weights of the five distances.
  """
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  features, width = {}, 3
  for stage in _STAGES:
    for index, out in stage:
      features[str(index)] = {"kernel": array(1, 3, 3, width, out), "bias": array(out)}
      width = out
  lins = {str(i): array(stage[-1][1]) for i, stage in enumerate(_STAGES)}
  return {"features": features, "lins": lins}


def _pool(x: jax.Array) -> jax.Array:
  """2x2 max-pool of x [N,1,H,W,C]; an odd last row or column is dropped."""
  n, _, height, width, channels = x.shape
  x = x[:, :, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(n, 1, height // 2, 2, width // 2, 2, channels).max((3, 5))


def _features(params: Params, x: jax.Array, dtype: Any) -> list[jax.Array]:
  """Returns the last activation of each stage for x [N,1,H,W,3] in [-1,1]."""
  x = ((x - _SHIFT) / _SCALE).astype(dtype)
  taps = []
  for i, stage in enumerate(_STAGES):
    if i:
      x = _pool(x)
    for index, _ in stage:
      layer = jax.tree.map(lambda w: w.astype(dtype), params["features"][str(index)])
      x = conv_ops.conv(x, layer["kernel"], padding=((0, 0), (1, 1), (1, 1)))
      x = jax.nn.relu(x + layer["bias"])
    taps.append(x)
  return taps


def _unit(x: jax.Array) -> jax.Array:
  """x / (|x| + 1e-10) over channels, float32; 0 with gradient 0 where x is 0."""
  x = x.astype(jnp.float32)
  square = jnp.square(x).sum(-1, keepdims=True)
  zero = square == 0
  # The root's derivative is infinite at 0: keep it away from there.
  norm = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))
  return x / (norm + 1e-10)


def distance(
  params: Params, a: jax.Array, b: jax.Array, dtype: Any = jnp.float32
) -> jax.Array:
  """Returns LPIPS of each pair of images, [N] float32.

  Args:
    params: as `shapes` says, from `interchange.perceptual.load`.
    a: [N,H,W,3] float in [-1,1], H and W at least 16.
    b: same shape.
    dtype: of VGG's activations; norms and differences are float32. For scores float32.
  """
  chex.assert_rank([a, b], 4)
  chex.assert_equal_shape([a, b])
  params = jax.lax.stop_gradient(params)
  total = jnp.zeros(a.shape[0], jnp.float32)
  pairs = zip(*(_features(params, x[:, None], dtype) for x in (a, b)))
  for i, (f, g) in enumerate(pairs):
    difference = jnp.square(_unit(f) - _unit(g)) @ params["lins"][str(i)]
    total += difference.mean((1, 2, 3))
  return total
