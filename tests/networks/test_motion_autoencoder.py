"""LaMD's autoencoder: shapes of any length, frames that differ, sizes by formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.networks import motion_autoencoder
from lamd_jax.nn import initializers
from lamd_jax.ops import conv as conv_ops

SMALL = dict(
  latent_channels=3, patch=1, content_channels=4, content_mult=(1, 2, 2), content_blocks=1,
  content_attention=True, content_groups=4, encoder_widths=(4, 4, 8),
  decoder_widths=(4, 4, 8), decoder_blocks=1, decoder_attention=False,
  fusion="concat", groups=4,
)  # fmt: skip
# The paper-like sizes of our defaults (specification, section 2).
FULL = dict(
  latent_channels=3, patch=1, content_channels=64, content_mult=(1, 2, 4), content_blocks=2,
  content_attention=False, content_groups=32, encoder_widths=(64, 128, 256),
  decoder_widths=(64, 128, 256), decoder_blocks=1, decoder_attention=False,
  fusion="concat", groups=16,
)  # fmt: skip


def build(frames, **changes):
  return motion_autoencoder.MotionAutoencoder(frames, **{**SMALL, **changes})


def clip(frames, size=16):
  return jax.ShapeDtypeStruct((2, frames, size, size, 3), jnp.float32)


@pytest.mark.parametrize(
  "frames, strides",
  [
    # Section 2 of the specification: (t,s) for 16 and one more (2,1) for 32.
    (16, [(2, 2), (2, 2), (2, 1), (2, 1)]),
    (32, [(2, 2), (2, 2), (2, 1), (2, 1), (2, 1)]),
    (12, [(2, 2), (2, 2), (2, 1), (2, 1)]),
    (2, [(2, 2), (1, 2)]),
  ],
)
def test_strides(frames, strides):
  assert motion_autoencoder.halvings(frames, 3) == strides


@pytest.mark.parametrize("frames", [16, 32, 12, 20, 128, 2])
def test_any_length_becomes_one_motion_map_and_comes_back(frames):
  net, x = build(frames), clip(frames)
  variables = initializers.shapes(net, x)
  apply = lambda method, *args: jax.eval_shape(
    lambda v, *a: net.apply(v, *a, method=method), variables, *args
  )
  mean, log_variance = apply("encode", x)
  assert mean.shape == log_variance.shape == (2, 1, 4, 4, 3)
  content = apply("content", clip(1))
  assert [m.shape[1:] for m in content] == [
    (1, 16, 16, 4), (1, 8, 8, 8), (1, 4, 4, 8)
  ]  # fmt: skip
  assert apply("decode", mean, content).shape == x.shape


def _frames_differ(net, frames, size=16):
  variables = initializers.initialize(net, 0, clip(frames, size))
  rng = np.random.default_rng(0)
  x = rng.uniform(-1, 1, (1, frames, size, size, 3)).astype(np.float32)
  run = jax.jit(lambda v, x: net.apply(v, x))
  made = np.asarray(run(variables, np.repeat(x[:, :1], frames, 1)))
  return np.abs(np.diff(made, axis=1)).max((0, 2, 3, 4)), made


@pytest.mark.parametrize("frames, fusion", [(16, "concat"), (20, "spade")])
def test_frames_of_a_random_decoder_differ(frames, fusion):
  # Even of a still clip: nothing in the input tells frames apart.
  steps, made = _frames_differ(build(frames, fusion=fusion), frames)
  assert steps.min() > 1e-4 * made.std()


def test_they_would_not_with_repeated_borders_and_no_index(monkeypatch):
  """The proof in the specification, section 4, on this very decoder."""
  original = conv_ops.conv

  def edges(x, kernel, stride=(1, 1, 1), padding=((0, 0),) * 3):
    if kernel.shape[0] > 1 and stride[0] == 1:
      x = jnp.pad(x, ((0, 0), padding[0], *((0, 0),) * 3), mode="edge")
      padding = ((0, 0), *padding[1:])
    return original(x, kernel, stride, padding)

  def repeat(self, x):
    return jnp.repeat(x, 2, axis=1)

  monkeypatch.setattr(motion_autoencoder.DoubleTime, "__call__", repeat)
  monkeypatch.setattr(conv_ops, "conv", edges)
  steps, made = _frames_differ(build(16), 16)
  assert steps.max() < 1e-5 * made.std()


def test_full_sizes_by_shape_alone():
  """Counted by hand from the layers, see `_count`; 16 frames of BAIR."""
  net = motion_autoencoder.MotionAutoencoder(16, **FULL)
  params = initializers.shapes(net, clip(16, 64))["params"]
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  expected = _count()
  assert {name: size(params[name]) for name in expected} == expected
  assert set(params) == set(expected)


def _count():
  conv = lambda k, i, o: k * i * o + o
  res = lambda k, i, o: 2 * i + conv(k, i, o) + 2 * o + conv(k, o, o) + (
    conv(1, i, o) if i != o else 0
  )  # fmt: skip
  content = conv(9, 3, 64) + 2 * res(9, 64, 64)
  content += conv(9, 64, 128) + 2 * res(9, 128, 128)
  content += conv(9, 128, 256) + 2 * res(9, 256, 256) + 2 * 256
  encoder = conv(27, 3, 64)
  for kernel, i, o in ((64, 64, 128), (64, 128, 256), (36, 256, 256), (36, 256, 256)):
    encoder += conv(kernel, i, o) + res(27, o, o)
  encoder += 2 * 256 + conv(9, 256, 6)
  fuse = lambda c, f: conv(1, c, c) + f * c
  double = lambda t, c: conv(1, c, 2 * c) + t * c
  decoder = conv(9, 3, 256) + fuse(256, 256) + res(27, 256, 256)
  decoder += double(2, 256) + res(27, 256, 256) + double(4, 256) + res(27, 256, 256)
  decoder += conv(1, 256, 128) + double(8, 128) + fuse(128, 128) + res(27, 128, 128)
  decoder += conv(1, 128, 64) + double(16, 64) + fuse(64, 64) + res(27, 64, 64) + 2 * 64
  return {
    "content_encoder": content, "motion_encoder": encoder, "decoder": decoder,
    "conv_out": conv(27, 64, 3),
  }  # fmt: skip


def test_motion_and_content_both_reach_the_clip():
  net = build(12)
  variables = initializers.initialize(net, 0, clip(12))
  rng = np.random.default_rng(1)
  x = rng.uniform(-1, 1, (2, 12, 16, 16, 3)).astype(np.float32)

  @jax.jit
  def swapped(v, x):
    mean, _ = net.apply(v, x, method="encode")
    content = net.apply(v, x[:, :1], method="content")
    own = net.apply(v, mean, content, method="decode")
    motion = net.apply(v, mean[::-1], content, method="decode")
    other = tuple(m[::-1] for m in content)
    return own, motion, net.apply(v, mean, other, method="decode")

  own, motion, content = swapped(variables, x)
  assert np.abs(own - motion).max() > 1e-3 and np.abs(own - content).max() > 1e-3


def test_the_decoder_s_attention_is_there_if_asked_and_changes_the_clip():
  plain, attending = build(4), build(4, decoder_attention=True)
  variables = initializers.initialize(attending, 0, clip(4))
  assert "attention" in variables["params"]["decoder"]
  assert "attention" not in initializers.shapes(plain, clip(4))["params"]["decoder"]
  x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 16, 16, 3)).astype(np.float32)
  run = lambda net: np.asarray(jax.jit(net.apply)(variables, x))
  assert np.abs(run(attending) - run(plain)).max() > 1e-4


def test_a_clip_of_another_size_is_refused():
  net = build(8)
  variables = initializers.shapes(net, clip(8))
  for frames, size in ((4, 16), (8, 18)):
    with pytest.raises(ConfigError, match="does not fit"):
      jax.eval_shape(
        lambda v, x: net.apply(v, x, method="encode"), variables, clip(frames, size)
      )


def test_patches_are_pixels_in_reading_order_and_come_back():
  x = np.arange(2 * 1 * 4 * 6 * 3).reshape(2, 1, 4, 6, 3)
  patches = motion_autoencoder.to_patches(jnp.asarray(x), 2)
  assert patches.shape == (2, 1, 2, 3, 12)
  np.testing.assert_array_equal(patches[0, 0, 1, 2], x[0, 0, 2:, 4:].reshape(-1))
  np.testing.assert_array_equal(motion_autoencoder.from_patches(patches, 2), x)


def test_patches_make_the_motion_map_smaller():
  net, x = build(8, patch=2), clip(8)
  variables = initializers.shapes(net, x)
  found = jax.eval_shape(lambda v, x: net.apply(v, x, method="encode"), variables, x)
  assert found[0].shape == (2, 1, 2, 2, 3)
  assert jax.eval_shape(net.apply, variables, x).shape == x.shape
