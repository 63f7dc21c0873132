# SPDX-License-Identifier: Apache-2.0
"""LVDM's 3-D autoencoder; tools.parity's tests compare its numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder
from lamd_jax.networks import video_autoencoder
from lamd_jax.nn import initializers
from lamd_jax.ops import conv_repeated

VideoAutoencoder = video_autoencoder.VideoAutoencoder


def _video(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_full_size_has_the_release_s_tensors_one_to_one(fixtures):
  full = VideoAutoencoder(32, (4, 8, 8), 4, 32)
  params = initializers.shapes(full, _video(1, 16, 256, 256, 3))["params"]
  # Counted from the release (lvdm specification, section 2).
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 19_446_759
  recorded = json.loads((fixtures / "lvdm" / "lvdm_full_keys.json").read_text())["ae"]
  # Padded convolutions register their weight twice, as X.conv.weight and X.weight.
  padded = [k for k in recorded if k.endswith(".conv.weight")]
  aliases = {k.replace(".conv.weight", ".weight") for k in padded} & recorded.keys()
  assert len(aliases) == 26 and len(recorded) == 122
  wanted = {k: tuple(v) for k, v in recorded.items() if k not in aliases}
  rules = lvdm_autoencoder.video_rules(params)
  assert keys.source_shapes(params, rules) == wanted


def _encode_still_with_a_flash(at):
  """Latents of a still clip in which frames at..at+3 are noise."""
  net = VideoAutoencoder(2, (4, 2, 2), 2, 2)
  variables = initializers.initialize(net, 0, _video(1, 64, 8, 8, 3))
  x = np.full((1, 64, 8, 8, 3), 0.3, np.float32)
  rng = np.random.default_rng(0)
  x[:, at : at + 4] = rng.uniform(-1, 1, (1, 4, 8, 8, 3))
  encode = jax.jit(lambda x: net.apply(variables, x, method="encode")[0])
  return np.asarray(encode(x))


def test_latents_move_with_the_clip():
  # Norms see the whole clip; both clips hold the same pixels, so statistics agree.
  z, moved = _encode_still_with_a_flash(28), _encode_still_with_a_flash(32)
  assert z.shape == (1, 16, 4, 4, 2)
  spread = z.std()
  np.testing.assert_allclose(moved[:, 1:], z[:, :-1], rtol=0, atol=1e-4 * spread)
  assert np.abs(z[:, 7] - z[:, 0]).max() > spread  # the flash is in there
  # Repeated borders: the ends of a still clip look like any other part of it.
  np.testing.assert_allclose(z[:, :2], z[:, -2:], rtol=0, atol=1e-4 * spread)
  np.testing.assert_allclose(z[:, 0], z[:, 1], rtol=0, atol=1e-4 * spread)


def test_zeros_at_the_border_would_show(monkeypatch):
  def zeros(x, kernel, stride):
    widths = [((k - s + 1) // 2, (k - s) // 2) for k, s in zip(kernel, stride)]
    return jnp.pad(x, ((0, 0), *widths, (0, 0)))

  monkeypatch.setattr(conv_repeated, "replicate_pad", zeros)
  z = _encode_still_with_a_flash(28)
  assert np.abs(z[:, 0] - z[:, 1]).max() > 0.05 * z.std()


@pytest.mark.parametrize(
  "downsample, clip, latent",
  [
    ((4, 4, 4), (4, 8, 12), (1, 2, 3)),
    ((2, 4, 4), (6, 8, 8), (3, 2, 2)),
    ((4, 8, 8), (8, 16, 8), (2, 2, 1)),
    ((1, 4, 4), (3, 8, 8), (3, 2, 2)),
    ((8, 2, 1), (8, 4, 3), (1, 2, 3)),
  ],
)
def test_any_factors_and_lengths(downsample, clip, latent):
  net = VideoAutoencoder(4, downsample, 3, 4)
  x = _video(2, *clip, 3)
  variables = initializers.shapes(net, x)
  apply = lambda method, x: jax.eval_shape(
    lambda v, x: net.apply(v, x, method=method), variables, x
  )
  mean, log_variance = apply("encode", x)
  assert mean.shape == log_variance.shape == (2, *latent, 3)
  assert apply("decode", mean).shape == x.shape
  features = apply("decode_features", mean)
  assert features.shape == (2, *clip, 8)
  assert apply("output", features).shape == x.shape


def test_strides_come_early():
  assert video_autoencoder.strides((4, 8, 8)) == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
  assert video_autoencoder.strides((1, 4, 2)) == [(1, 2, 2), (1, 2, 1)]


@pytest.mark.parametrize(
  "settings, clip, message",
  [
    ((10, (4, 4, 4), 4, 32), (4, 8, 8), "2 \\* channels must be a multiple of groups"),
    ((16, (3, 4, 4), 4, 32), (3, 8, 8), "powers of two"),
    ((16, (1, 1, 1), 4, 32), (3, 8, 8), "at least one above 1"),
    ((16, (4, 4, 4), 4, 32), (6, 8, 8), r"\(6, 8, 8\).*cannot be reduced.*multiples"),
  ],
)
def test_impossible_settings_are_one_line(settings, clip, message):
  with pytest.raises(ConfigError, match=message) as error:
    initializers.shapes(VideoAutoencoder(*settings), _video(1, *clip, 3))
  assert "\n" not in str(error.value)


def test_log_variance_is_clamped():
  net = VideoAutoencoder(2, (2, 1, 1), 3, 2)
  variables = initializers.initialize(net, 0, _video(1, 2, 4, 4, 3))
  kernel = variables["params"]["quant_conv"]["kernel"]
  variables["params"]["quant_conv"]["kernel"] = kernel * 1e4
  x = np.random.default_rng(0).uniform(-1, 1, (1, 2, 4, 4, 3)).astype(np.float32)
  encode = jax.jit(lambda x: net.apply(variables, x, method="encode"))
  mean, log_variance = encode(x)
  assert float(log_variance.min()) == -30 and float(log_variance.max()) == 20
  assert float(jnp.abs(mean).max()) > 30  # only the variance is


def test_bfloat16_stays_inside():
  net = VideoAutoencoder(4, (2, 2, 2), 3, 4, dtype=jnp.bfloat16)
  x = _video(1, 2, 4, 4, 3)
  variables = initializers.shapes(net, x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  run = lambda method, x: jax.eval_shape(
    lambda v, x: net.apply(v, x, method=method), variables, x
  )
  mean, log_variance = run("encode", x)
  assert mean.dtype == log_variance.dtype == jnp.float32
  features = run("decode_features", mean)
  assert features.dtype == jnp.bfloat16 and run("output", features).dtype == jnp.float32
