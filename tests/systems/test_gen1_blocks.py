# SPDX-License-Identifier: Apache-2.0
"""The UNet as a whole: its size, and what the image model is to the video model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import types
from lamd_jax.nn import initializers
from lamd_jax.systems import gen1_blocks


def _full(channels, **changes):
  settings = {**gen1_blocks.STABLE_DIFFUSION_1, **changes}
  network = gen1_blocks.unet(settings, 4, remat="none")
  like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  conditions = types.Conditions(context=like(1, 4, 768))
  shapes = initializers.shapes(network, like(1, 2, 8, 8, channels), like(1), conditions)
  flat = jax.tree_util.tree_flatten_with_path(shapes["params"])[0]
  return {jax.tree_util.keystr(path): leaf.shape for path, leaf in flat}


def _count(shapes):
  return sum(int(np.prod(shape)) for shape in shapes.values())


def _temporal_parameters(cross):
  """By hand, from the layers of one block and how many blocks there are."""
  total = 0
  for width, res, attention in ((320, 5, 5), (640, 5, 5), (1280, 12, 6)):
    convolution = 2 * width + 3 * width**2 + width  # norm, kernel, bias
    norms = 2 * width + 2 * 2 * width  # of the block, and before two layers
    projections = 2 * (width**2 + width)  # in, out
    self_attention = 4 * width**2 + width
    feed_forward = 8 * width**2 + 8 * width + 4 * width**2 + width
    transformer = norms + projections + self_attention + feed_forward + 64 * width
    if cross:
      transformer += 2 * width + 2 * width**2 + 2 * 768 * width + width
    total += res * 2 * convolution + attention * transformer
  return total


# 859,520,964: the count of Stable Diffusion 1's checkpoints; eight more input channels
# are 8 * 9 * 320 numbers of the first kernel.
def test_parameters_at_full_size():
  assert _count(_full(4)) == 859_520_964
  with_time = _full(12, temporal_layers=True)
  spatial = {k: v for k, v in with_time.items() if "temporal_" not in k}
  assert _count(spatial) == 859_544_004
  assert _count(with_time) == 1_217_040_324
  assert _count(with_time) - _count(spatial) == _temporal_parameters(False) == 357_496_320


def test_parameters_with_attention_to_the_context_over_time():
  both = _full(12, temporal_layers=True, temporal_cross_attention=True)
  assert _count(both) == 859_544_004 + _temporal_parameters(True)


TINY = dict(
  gen1_blocks.STABLE_DIFFUSION_1, channels=32, channel_mult=(1,), res_blocks=1,
  attention_downsample=(1,), heads=2, temporal_layers=True, frame_positions=4,
)  # fmt: skip
RNG = np.random.default_rng(0)
Z = RNG.standard_normal((2, 3, 8, 8, 2)).astype(np.float32)
Z *= np.array([1, 3, 9], np.float32).reshape(1, 3, 1, 1, 1)  # frames of unlike spread
T = np.array([3.0, 500.5], np.float32)
CONDITIONS = types.Conditions(
  context=RNG.standard_normal((2, 4, 16)).astype(np.float32),
  concat=RNG.standard_normal((2, 3, 8, 8, 4)).astype(np.float32),
)


def _network(**changes):
  return gen1_blocks.unet({**TINY, **changes}, 2, remat="none")


def _perturb(params, which):
  rng = np.random.default_rng(3)

  def one(path, leaf):
    if not which(jax.tree_util.keystr(path)):
      return leaf
    return (leaf + 0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(one, params)


@pytest.fixture(scope="module")
def trained():
  """An image model with random weights, its temporal layers as they start."""
  params = initializers.initialize(_network(), 0, Z, T, CONDITIONS)["params"]
  return _perturb(params, lambda path: "temporal_" not in path)


@pytest.fixture(scope="module")
def moved(trained):
  """The same, its temporal layers trained too."""
  return _perturb(trained, lambda path: "temporal_" in path)


@pytest.fixture(scope="module")
def run():
  """The compiled network of each mode, as numpy."""
  compiled = {
    mode: jax.jit(
      lambda p, z, c, mode=mode: _network().apply({"params": p}, z, T, c, mode)
    )
    for mode in ("video", "image")
  }
  return lambda mode, params, z=Z, c=CONDITIONS: np.asarray(compiled[mode](params, z, c))


def test_at_the_start_video_is_the_image_model_exactly(trained):
  network = gen1_blocks.unet(TINY, 2, remat="none")
  with jax.disable_jit():
    video, image = (
      np.asarray(network.apply({"params": trained}, Z, T, CONDITIONS, mode))
      for mode in ("video", "image")
    )
  assert np.abs(image).max() > 0.1
  assert np.abs(video - image).max() == 0


def test_compiled_apart_they_differ_by_rounding_at_most(trained, run):
  video, image = run("video", trained), run("image", trained)
  assert np.abs(video - image).max() <= 1e-6 * np.abs(image).max()


def test_image_mode_is_blind_to_temporal_parameters(trained, moved, run):
  np.testing.assert_array_equal(run("image", moved), run("image", trained))
  assert np.abs(run("video", moved) - run("video", trained)).max() > 1e-2


def test_image_mode_is_a_network_without_temporal_layers(moved, run):
  def spatial(tree):
    kept = {k: v for k, v in tree.items() if not k.startswith("temporal_")}
    return {k: spatial(v) if isinstance(v, dict) else v for k, v in kept.items()}

  plain = _network(temporal_layers=False)
  like = initializers.shapes(plain, Z, T, CONDITIONS)["params"]
  params = spatial(moved)
  assert jax.tree.structure(params) == jax.tree.structure(like)
  # Each frame as an image by itself, with the clip's time and context.
  frames = lambda x: x.reshape(6, 1, *x.shape[2:])
  alone = types.Conditions(np.repeat(CONDITIONS.context, 3, 0), frames(CONDITIONS.concat))
  apply = jax.jit(lambda p, z, t, c: plain.apply({"params": p}, z, t, c, "video"))
  found = np.asarray(apply(params, frames(Z), np.repeat(T, 3), alone))
  image = run("image", moved)
  error = np.abs(found.reshape(image.shape) - image).max() / np.abs(image).max()
  assert error <= 1e-5


def test_frames_mix_in_video_mode_alone(trained, moved, run):
  other = Z.copy()
  other[0, 1] += 1
  touched = np.zeros((2, 3), bool)
  touched[0, 1] = True
  change = lambda mode, params: (
    np.abs(run(mode, params, other) - run(mode, params)).max((2, 3, 4)) > 1e-5
  )
  np.testing.assert_array_equal(change("image", moved), touched)
  np.testing.assert_array_equal(change("video", trained), touched)
  np.testing.assert_array_equal(change("video", moved), [[True] * 3, [False] * 3])


def test_half_precision_is_close_and_ends_in_float32(moved, run):
  network = gen1_blocks.unet(TINY, 2, remat="none", dtype=jnp.bfloat16)
  apply = jax.jit(lambda p: network.apply({"params": p}, Z, T, CONDITIONS, "video"))
  found, expected = apply(moved), run("video", moved)
  assert found.dtype == jnp.float32
  error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
  assert 1e-5 < error < 0.1
