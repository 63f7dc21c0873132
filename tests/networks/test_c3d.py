# SPDX-License-Identifier: Apache-2.0
"""C3D against a plain torch network: `fixtures/c3d/make.py` says how it came."""

import functools

import jax
import numpy as np
import pytest

from lamd_jax.interchange import c3d as weights
from lamd_jax.interchange import keys
from lamd_jax.networks import c3d
import network_fill

TINY = c3d.C3D(classes=5, divide=16)
SIZE = 24  # the last pool meets an odd number of pixels


@pytest.fixture(scope="module")
def recorded(fixtures):
  return np.load(fixtures / "c3d" / "tiny.npz")["scores"]


@pytest.fixture(scope="module")
def params():
  expected = weights.shapes(TINY, SIZE)
  names = keys.source_shapes(expected, weights.rules(expected))
  # The fixture's fill goes by torch's names.
  torch = lambda name: name.replace("/W", ".weight").replace("/b", ".bias")
  shapes = {torch(name): shape for name, shape in names.items()}
  filled = network_fill.state(shapes, {name: False for name in shapes})
  state = {name: filled[torch(name)] for name in names}
  state["mean"] = np.zeros(weights.MEAN_SHAPE, np.float32)
  return weights.to_params(state, TINY, SIZE)["network"]


@functools.partial(jax.jit, static_argnums=3)
def _scores(params, clip, mean, size):
  x = c3d.prepare(clip, mean, size)
  return TINY.apply({"params": params}, x)


def _inputs():
  # As fixtures/c3d/make.py draws them.
  draw = np.random.RandomState(0)
  clip = draw.uniform(-1, 1, (2, 16, 20, 28, 3)).astype(np.float32)
  return clip, draw.uniform(80, 120, (16, 24, 24, 3)).astype(np.float32)


def _far(a, b):
  return np.abs(a - b).max() / np.abs(b).max()


def test_scores_are_those_of_the_reference(params, recorded):
  with jax.default_matmul_precision("highest"):
    assert _far(np.asarray(_scores(params, *_inputs(), SIZE)), recorded) < 1e-5


def test_mistakes_are_seen(params, recorded):
  clip, mean = _inputs()
  call = lambda *arguments: np.asarray(_scores(*arguments, SIZE))
  assert _far(call(params, clip[..., ::-1], mean), recorded) > 1e-3  # colours swapped
  assert _far(call(params, clip, mean[..., ::-1]), recorded) > 1e-4
  swapped = {**params, "conv4b_kernel": params["conv5a_kernel"]}
  assert _far(call(swapped, clip, mean), recorded) > 1e-2
  # Flattened with channels last, the first linear layer meets other rows; at this size
  # one pixel is left and the order is shown on its own.
  turned = {**params, "fc6_kernel": params["fc6_kernel"][::-1]}
  assert _far(call(turned, clip, mean), recorded) > 1e-2


def test_flattening_is_channels_first():
  network = c3d.C3D(classes=2, divide=64)
  shapes = weights.shapes(network, 33)  # leaves 2x2 pixels of 8 channels
  params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
  assert params["fc6_kernel"].shape == (32, 64)
  # The last convolution gives channel c the value c + 1 everywhere.
  params["conv5b_bias"] = np.arange(1, 9, dtype=np.float32)
  params["fc6_kernel"][:4] = 1  # rows of channel 0, if channels come first
  for layer in ("fc7", "fc8"):
    params[f"{layer}_kernel"][0, 0] = 1
  clip = np.zeros((1, 16, 33, 33, 3), np.float32)
  assert float(network.apply({"params": params}, clip)[0, 0]) == 4


def test_corners_stay():
  # 3 pixels to 5: every second one is a mean of two.
  expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
  np.testing.assert_allclose(c3d.aligned(3, 5), expected, atol=1e-6)


def test_mean_video_is_cropped():
  mean = np.zeros(weights.MEAN_SHAPE)
  mean[1, 3, 8, 9] = 5
  found = c3d.crop_mean(mean)
  assert found.shape == (16, 112, 112, 3) and found[3, 0, 1, 1] == 5 == found.sum()
