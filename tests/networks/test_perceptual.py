# SPDX-License-Identifier: Apache-2.0
"""LPIPS against its definition in NumPy, on a VGG16 of few channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.networks import perceptual

WIDTHS = (3, 4, 5, 6, 4)


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)
  features, width = {}, 3
  # torchvision's indices of VGG16's convolutions, stage by stage.
  stages = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
  for out, indices in zip(WIDTHS, stages):
    for index in indices:
      kernel = rng.standard_normal((1, 3, 3, width, out)) / np.sqrt(4.5 * width)
      bias = 0.1 * rng.standard_normal(out)
      features[str(index)] = {"kernel": kernel.astype("f4"), "bias": bias.astype("f4")}
      width = out
  lins = {str(i): rng.uniform(0, 1, n).astype("f4") for i, n in enumerate(WIDTHS)}
  return {"features": features, "lins": lins}


def _images(seed=0, size=(20, 17)):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (2, 2, *size, 3)).astype(np.float32)


def _taps(params, x):
  """Activations after ReLU 3, 8, 15, 22 and 29 of x [N,H,W,3], in float64."""
  mean, std = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
  x, taps = (x.astype(np.float64) - mean) / std, []
  for index in range(30):
    if index in (4, 9, 16, 23):  # max-pool, 2x2, stride 2
      height, width = x.shape[1] // 2, x.shape[2] // 2
      corners = [
        x[:, i : 2 * height : 2, j : 2 * width : 2] for i in (0, 1) for j in (0, 1)
      ]
      x = np.max(corners, axis=0)
    elif str(index) in params["features"]:
      layer = params["features"][str(index)]
      padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
      windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
      x = np.einsum("nhwcij,ijco->nhwo", windows, layer["kernel"][0]) + layer["bias"]
    else:
      x = np.maximum(x, 0)
    if index in (3, 8, 15, 22, 29):
      taps.append(x)
  return taps


def test_distance_equals_the_definition(params):
  a, b = _images()
  expected = np.zeros(2)
  for i, (f, g) in enumerate(zip(_taps(params, a), _taps(params, b))):
    unit = lambda v: v / (np.sqrt(np.square(v).sum(-1, keepdims=True)) + 1e-10)
    per_pixel = np.square(unit(f) - unit(g)) @ params["lins"][str(i)].astype(np.float64)
    expected += per_pixel.mean((1, 2))
  found = jax.jit(perceptual.distance)(params, a, b)
  assert found.shape == (2,) and expected.min() > 0.01
  np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_it_is_a_distance_of_images_in_minus_one_to_one(params):
  a, b = _images()
  distance = jax.jit(perceptual.distance)
  np.testing.assert_allclose(distance(params, a, a), 0, atol=1e-12)
  np.testing.assert_allclose(distance(params, a, b), distance(params, b, a), rtol=1e-5)
  # Images in [0,1] give plausible values that are wrong.
  halved = distance(params, (a + 1) / 2, (b + 1) / 2)
  assert np.abs(halved / distance(params, a, b) - 1).max() > 0.1


def test_flat_and_equal_frames_have_finite_gradients(params):
  # A dead network: all features are zero, where the root has no derivative.
  dead = jax.tree.map(jnp.zeros_like, params)
  flat, other = np.zeros((1, 16, 16, 3), np.float32), _images(size=(16, 16))[0][:1]
  gradient = jax.jit(jax.grad(lambda p, a, b: perceptual.distance(p, a, b).sum(), 1))
  for weights, a, b in (
    (dead, flat, other),
    (params, flat, other),
    (params, other, other),
    (params, flat, flat),
  ):
    assert np.isfinite(gradient(weights, a, b)).all()
  assert np.abs(gradient(params, flat, other)).max() > 0


def test_weights_are_constants(params):
  a, b = _images(size=(16, 16))
  gradient = jax.jit(jax.grad(lambda p: perceptual.distance(p, a, b).sum()))(params)
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_published_size():
  shapes = perceptual.shapes()
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  # Pretrained parts, section 1: 14,714,688 + 1,472.
  assert count(shapes["features"]) == 14_714_688 and count(shapes["lins"]) == 1_472
