# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1's UNet by both schemes of names, strict and bit-equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import types
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_checkpoint
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import sd_unet
from lamd_jax.nn import initializers
from lamd_jax.systems import gen1_blocks
from lamd_jax.tools import convert_sd_unet

SCHEMES = ("ldm", "diffusers")


class _Published:
  """Names and shapes as each of the two constructors' loops come by them.

  Written from the loops, with a counter of its own for each scheme; latent diffusion
  builds a list of blocks, diffusers a tree of levels. The width of the time embedding
  is four times that of the first level, that of the context 768.
  """

  def __init__(self, channels_in):
    self.shapes = {"ldm": {}, "diffusers": {}}
    both = lambda ldm, diffusers, *shape: self._layer((ldm, diffusers), *shape)
    both("time_embed.0", "time_embedding.linear_1", 1280, 320)
    both("time_embed.2", "time_embedding.linear_2", 1280, 1280)
    both("input_blocks.0.0", "conv_in", 320, channels_in, 3, 3)
    skips = self._down(both)
    self._res(("middle_block.0", "mid_block.resnets.0"), 1280, 1280)
    self._transformer(("middle_block.1", "mid_block.attentions.0"), 1280)
    self._res(("middle_block.2", "mid_block.resnets.1"), 1280, 1280)
    self._up(both, skips)
    both("out.0", "conv_norm_out", 320)
    both("out.2", "conv_out", 4, 320, 3, 3)

  def _down(self, both):
    skips, width, number = [320], 320, 1
    for level, mult in enumerate((1, 2, 4, 4)):
      at = f"down_blocks.{level}"
      for j in range(2):
        names = f"input_blocks.{number}.0", f"{at}.resnets.{j}"
        self._res(names, width, 320 * mult)
        width = 320 * mult
        if level < 3:
          names = f"input_blocks.{number}.1", f"{at}.attentions.{j}"
          self._transformer(names, width)
        skips.append(width)
        number += 1
      if level < 3:
        names = f"input_blocks.{number}.0.op", f"{at}.downsamplers.0.conv"
        both(*names, width, width, 3, 3)
        skips.append(width)
        number += 1
    return skips

  def _up(self, both, skips):
    width, number = 1280, 0
    for level, mult in enumerate((4, 4, 2, 1)):
      at = f"up_blocks.{level}"
      for j in range(3):
        names = f"output_blocks.{number}.0", f"{at}.resnets.{j}"
        self._res(names, width + skips.pop(), 320 * mult)
        width, place = 320 * mult, 1
        if level > 0:
          names = f"output_blocks.{number}.1", f"{at}.attentions.{j}"
          self._transformer(names, width)
          place = 2
        if j == 2 and level < 3:
          names = f"output_blocks.{number}.{place}.conv", f"{at}.upsamplers.0.conv"
          both(*names, width, width, 3, 3)
        number += 1

  def _layer(self, names, out, *rest, bias=True):
    for scheme, name in zip(SCHEMES, names, strict=True):
      self.shapes[scheme][f"{name}.weight"] = (out, *rest)
      if bias:
        self.shapes[scheme][f"{name}.bias"] = (out,)

  def _inside(self, prefixes, ldm, diffusers, *shape, bias=True):
    names = f"{prefixes[0]}.{ldm}", f"{prefixes[1]}.{diffusers}"
    self._layer(names, *shape, bias=bias)

  def _res(self, at, width, out):
    self._inside(at, "in_layers.0", "norm1", width)
    self._inside(at, "in_layers.2", "conv1", out, width, 3, 3)
    self._inside(at, "emb_layers.1", "time_emb_proj", out, 1280)
    self._inside(at, "out_layers.0", "norm2", out)
    self._inside(at, "out_layers.3", "conv2", out, out, 3, 3)
    if width != out:
      self._inside(at, "skip_connection", "conv_shortcut", out, width, 1, 1)

  def _transformer(self, at, width):
    same = lambda name, *shape, **k: self._inside(at, name, name, *shape, **k)
    same("norm", width)
    same("proj_in", width, width, 1, 1)
    block = "transformer_blocks.0"
    for name, context in (("attn1", width), ("attn2", 768)):
      same(f"{block}.{name}.to_q", width, width, bias=False)
      same(f"{block}.{name}.to_k", width, context, bias=False)
      same(f"{block}.{name}.to_v", width, context, bias=False)
      same(f"{block}.{name}.to_out.0", width, width)
    for i in (1, 2, 3):
      same(f"{block}.norm{i}", width)
    same(f"{block}.ff.net.0.proj", 8 * width, width)
    same(f"{block}.ff.net.2", width, 4 * width)
    same("proj_out", width, width, 1, 1)


@pytest.fixture(scope="module")
def full():
  return convert_sd_unet.released()


@pytest.mark.parametrize("names", SCHEMES)
def test_names_and_shapes_at_full_size(full, names):
  published = _Published(4).shapes[names]
  # As many tensors as the files have, and as many numbers.
  assert len(published) == 686
  assert sum(int(np.prod(s)) for s in published.values()) == 859_520_964
  assert keys.source_shapes(full, sd_unet.rules(full, names)) == published


def test_the_two_schemes_name_the_same_tensor(full):
  ldm, diffusers = (list(_Published(4).shapes[names]) for names in SCHEMES)
  to = dict(zip(ldm, diffusers, strict=True))
  theirs = {rule.path: rule.source for rule in sd_unet.rules(full, "diffusers")}
  for rule in sd_unet.rules(full, "ldm"):
    assert theirs[rule.path] == to[rule.source]


def _tiny(extra=0, temporal=True, **changes):
  settings = dict(
    gen1_blocks.STABLE_DIFFUSION_1, channels=32, channel_mult=(1, 2), res_blocks=1,
    attention_downsample=(2,), heads=2, temporal_layers=temporal, frame_positions=4,
  )  # fmt: skip
  network = gen1_blocks.unet({**settings, **changes}, 4, remat="none")
  like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  conditions = types.Conditions(context=like(1, 4, 24))
  z = like(1, 2, 8, 8, 4 + extra)
  return initializers.initialize(network, 0, z, like(1), conditions)["params"]


def _moved(params):
  """Every number another, so that a swap shows."""
  rng = np.random.default_rng(1)
  draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)
  return jax.tree.map(draw, params)


@pytest.fixture(scope="module")
def params():
  return _moved(_tiny())


def _equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("names", SCHEMES)
def test_there_and_back(params, names):
  state = sd_unet.to_state(params, names)
  assert sd_unet.naming(state) == names
  assert not any("temporal" in name for name in state)
  _equal(sd_unet.to_params(state, params), params)


def test_temporal_layers_keep_their_start(params):
  initial = _tiny()
  found = sd_unet.to_params(sd_unet.to_state(params, "ldm"), initial)
  for path, value in keys.flatten(found).items():
    temporal = any(part.startswith("temporal_") for part in path)
    source = initial if temporal else params
    np.testing.assert_array_equal(value, keys.flatten(source)[path])
  # And a network without them takes the same file.
  plain = sd_unet.to_params(sd_unet.to_state(params, "ldm"), _tiny(temporal=False))
  assert {p: v.tobytes() for p, v in keys.flatten(plain).items()} == {
    p: v.tobytes() for p, v in sd_unet.spatial(params).items()
  }


def test_new_input_channels_start_at_zero(params):
  initial = _tiny(extra=8)
  assert np.abs(initial["in_conv"]["kernel"]).min() > 0
  found = sd_unet.to_params(sd_unet.to_state(params, "diffusers"), initial)
  kernel = found["in_conv"]["kernel"]
  assert kernel.shape == (1, 3, 3, 12, 32)
  np.testing.assert_array_equal(kernel[:, :, :, :4], params["in_conv"]["kernel"])
  np.testing.assert_array_equal(kernel[:, :, :, 4:], 0)
  # Once trained they are in the file, and come back.
  wide = _moved(initial)
  _equal(sd_unet.to_params(sd_unet.to_state(wide, "ldm"), wide), wide)


def test_other_numbers_of_input_channels_are_refused(params):
  # Nine are the inpainting model's: its mask and picture mean nothing here.
  state = sd_unet.to_state(_moved(_tiny(extra=5)), "ldm")
  message = r"input_blocks.0.0.weight has shape \(32, 9, 3, 3\), expected \(32, 12,"
  with pytest.raises(WeightsError, match=message):
    sd_unet.to_params(state, _tiny(extra=8))
  with pytest.raises(WeightsError, match=r"\(32, 9, 3, 3\), expected \(32, 4, 3, 3\)"):
    sd_unet.to_params(state, params)


@pytest.mark.parametrize("names", SCHEMES)
@pytest.mark.parametrize("part", ("attn2.to_k.weight", "conv_in", "norm2.bias", "ff.net"))
def test_changes_are_refused_in_the_names_of_the_file(params, names, part):
  state = sd_unet.to_state(params, names)
  part = part if names == "diffusers" else part.replace("conv_in", "input_blocks.0.0")
  key = next(name for name in state if part in name)
  value = state.pop(key)
  with pytest.raises(WeightsError, match=rf"1 differences\): {key} is missing"):
    sd_unet.to_params(state, params)
  with pytest.raises(WeightsError, match=f"{key} is missing; .*{key}_ is unused"):
    sd_unet.to_params({**state, f"{key}_": value}, params)
  if value.ndim > 1:
    with pytest.raises(WeightsError, match=rf"1 differences\): {key} has shape"):
      sd_unet.to_params({**state, key: value.swapaxes(0, 1)}, params)
  value = np.where(np.arange(value.size).reshape(value.shape) == 1, np.nan, value)
  with pytest.raises(WeightsError, match=f"no weights of a UNet: {key} not finite"):
    sd_unet.to_params({**state, key: value}, params)


def test_a_transposed_square_keeps_its_shape_and_is_not_seen(params):
  # What `keys` says of itself; only numbers (the parity test below) show it.
  state = sd_unet.to_state(params, "ldm")
  key = "middle_block.1.transformer_blocks.0.attn1.to_q.weight"
  found = sd_unet.to_params({**state, key: state[key].T}, params)
  with pytest.raises(AssertionError):
    _equal(found, params)


def test_parameters_without_a_place_are_named(params):
  for name in ("label_embedding", "down_1_other", "noise_level_embedding"):
    strange = {**params, name: {"table": params["in_conv"]["bias"]}}
    with pytest.raises(WeightsError, match=f"no place for {name}/table"):
      sd_unet.to_state(strange, "ldm")
  # Blocks that resample in themselves are of other checkpoints.
  with pytest.raises(WeightsError, match="no place for down_2_resample/.*, up_1_res"):
    sd_unet.rules(_tiny(resblock_updown=True), "diffusers")


@pytest.mark.parametrize(
  "prefix, rest",
  (
    ("", ("model_ema.decay", "betas")),
    ("module.", ()),
    ("unet.", ("vae.quant_conv.bias", "text_encoder.x")),
    ("model.diffusion_model.", ("first_stage_model.quant_conv.bias", "betas")),
    ("module.model.diffusion_model.", ("cond_stage_model.x", "sqrt_alphas_cumprod")),
  ),
)
def test_wrappings(params, prefix, rest):
  state = sd_unet.to_state(params, "ldm")
  wrapped = {prefix + name: value for name, value in state.items()}
  wrapped |= dict.fromkeys(rest, np.zeros(1, np.float32))
  found, unused = sd_unet.unwrap(wrapped)
  assert set(found) == set(state) and unused == list(rest)


def test_strange_names_beside_a_unet(params):
  state = sd_unet.to_state(params, "diffusers")
  wrapped = {f"unet.{name}": value for name, value in state.items()}
  found, _ = sd_unet.unwrap({**wrapped, "strange": np.zeros(1)})
  with pytest.raises(WeightsError, match="strange is unused"):
    sd_unet.to_params(found, params)
  with pytest.raises(WeightsError, match="conv_in.bias is there twice"):
    sd_unet.unwrap({**wrapped, "conv_in.bias": np.zeros(1)})


def test_the_moving_average(params):
  raw = sd_unet.to_state(_moved(_tiny()), "ldm")
  average = sd_unet.to_state(jax.tree.map(lambda x: 2 * x, params), "ldm")
  whole = {f"model.diffusion_model.{name}": value for name, value in raw.items()}
  whole |= {lvdm_checkpoint.ema_name(name): value for name, value in average.items()}
  whole |= {"model_ema.decay": np.float32(0.9999), "betas": np.zeros(3)}
  # As the files have it.
  assert "model_ema.diffusion_modelout0weight" in whole
  found, unused = sd_unet.averages(whole, params)
  assert {k: v.tobytes() for k, v in found.items()} == {
    k: v.tobytes() for k, v in average.items()
  }
  assert set(unused) == {n for n in whole if n not in map(lvdm_checkpoint.ema_name, raw)}
  del whole["model_ema.diffusion_modelout0weight"]
  found, _ = sd_unet.averages({**whole, "model_ema.strange": np.zeros(1)}, params)
  with pytest.raises(WeightsError, match="out.0.weight is missing; model_ema.strange is"):
    sd_unet.to_params(found, params)
  with pytest.raises(WeightsError, match="no moving average.*raw"):
    sd_unet.averages({"out.0.weight": np.zeros(1)}, params)


@pytest.mark.parametrize("names, prefix", (("ldm", ""), ("diffusers", "unet.")))
def test_a_file_is_read_whole_in_half_precision_too(params, tmp_path, names, prefix):
  file = tmp_path / "unet.safetensors"
  state = sd_unet.to_state(params, names)
  halves = {prefix + k: v.astype(np.float16) for k, v in state.items()}
  safetensors_file.write(file, halves, {})
  rounded = lambda x: x.astype(np.float16).astype(np.float32)
  flat = sd_unet.spatial(sd_unet.load(file, params))
  for path, value in sd_unet.spatial(params).items():
    np.testing.assert_array_equal(flat[path], rounded(value), strict=True)
  with pytest.raises(WeightsError, match=r"none.safetensors does not exist.*sd-unet FILE"):
    sd_unet.load(tmp_path / "none.safetensors", params)
  safetensors_file.write(file, {k: v for k, v in list(halves.items())[1:]}, {})
  with pytest.raises(WeightsError) as raised:
    sd_unet.load(file, params)
  assert str(raised.value).count(str(file)) == 1
