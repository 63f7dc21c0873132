# SPDX-License-Identifier: Apache-2.0
"""CLIP's image tower against transformers' CLIPVisionModelWithProjection.

`fixtures/clip/image_tiny.npz` holds its numbers; `make_image.py` there made them.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import clip_image as weights
from lamd_jax.interchange import clip_text as text_weights
from lamd_jax.interchange import fill
from lamd_jax.interchange import keys
from lamd_jax.networks import clip_image
from lamd_jax.networks import clip_text

TINY = clip_image.ClipImage(32, 2, 4, 8, 20, size=24)


@pytest.fixture(scope="module")
def recorded(fixtures):
  return np.load(fixtures / "clip" / "image_tiny.npz")


@pytest.fixture(scope="module")
def params():
  expected = weights.shapes(TINY)
  shapes = keys.source_shapes(expected, weights.rules(expected))
  norms = {k: ("norm" in k or "layrnorm" in k) and k.endswith("weight") for k in shapes}
  state = fill.state(shapes, norms)
  state = {k: 4 * v if "mlp.fc1.weight" in k else v for k, v in state.items()}
  return weights.to_params(state, TINY)


@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, pictures):
  return network.apply({"params": params}, pictures)


def _features(params, network=TINY):
  pictures = np.random.RandomState(0).standard_normal((3, 24, 24, 3)).astype("f4")
  with jax.default_matmul_precision("highest"):
    return np.asarray(_apply(network, params, pictures))


def _far(a, b):
  return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize(
  "name, activation",
  [("quick", clip_image.quick_gelu), ("exact", clip_image.exact_gelu)],
)
def test_features_are_those_of_the_reference(params, recorded, name, activation):
  found = {
    other: _features(params, TINY.clone(activation=function))
    for other, function in (("right", activation), ("wrong", jax.nn.gelu))
  }
  assert found["right"].shape == (3, 20) and found["right"].dtype == np.float32
  assert _far(found["right"], recorded[name]) < 1e-5
  assert _far(found["wrong"], recorded[name]) > 2e-5


def test_the_two_gelus_differ(recorded):
  assert _far(recorded["quick"], recorded["exact"]) > 1e-4


def test_swapped_projections_are_seen(params, recorded):
  block = params["block_1"]
  swapped = {**params, "block_1": {**block, "q": block["v"], "v": block["q"]}}
  assert _far(_features(swapped), recorded["quick"]) > 1e-3
  # One norm for the other.
  swapped = {**params, "pre_norm": params["post_norm"]}
  assert _far(_features(swapped), recorded["quick"]) > 1e-3
  # Patches counted by columns instead of rows.
  turned = params["positions"].copy()
  turned[1:] = turned[1:].reshape(3, 3, -1).swapaxes(0, 1).reshape(9, -1)
  assert _far(_features({**params, "positions": turned}), recorded["quick"]) > 1e-3


@pytest.mark.parametrize(
  "network, count",
  [
    (clip_image.VIT_B_32, 87_849_216),
    (clip_image.VIT_L_14, 303_966_208),
    (clip_image.VIT_H_14, 632_076_800),
  ],
)
def test_full_size_has_the_published_count(network, count):
  expected = weights.shapes(network)
  assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(expected)) == count
  pictures = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  out = jax.eval_shape(network.apply, {"params": expected}, pictures)
  assert out.shape == (2, network.projection) and out.dtype == jnp.float32


def test_both_towers_of_b32_make_the_whole():
  # 151,277,313 with logit_scale.
  count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
  text = clip_text.ClipText(49_408, 512, 12, 8, 77, projection=512)
  image = weights.shapes(clip_image.VIT_B_32)
  assert count(text_weights.shapes(text)) + count(image) + 1 == 151_277_313
