# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of LVDM's code, whole: every name has one place, and none is lost."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest

from lamd_jax import command_line
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_checkpoint as parts
from lamd_jax.tools import convert_lvdm
import lvdm_files
import tiny

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
LPIPS = 14_714_688 + 1_472 + 6  # numbers of VGG16, linear layers, shift and scale
# config, UNet, autoencoder, whether averages; names in all; bytes of the published file
PUBLISHED = {
  "short_sky": ("lvdm_sky", "unet_sky_short", "ae", True, 1472, 4_469_623_195),
  "short_taichi": ("lvdm_taichi", "unet_sky_short", "ae", True, 1472, 4_469_623_195),
  "t2v": ("lvdm_webvid", "unet_t2v", "ae2d_t2v", False, 1430, 4_663_057_434),
}


def _recorded(fixtures):
  recorded = json.loads((fixtures / "lvdm" / "lvdm_full_keys.json").read_text())
  return {
    part: {name: tuple(shape) for name, shape in shapes.items()}
    for part, shapes in recorded.items()
  }


def _networks(name):
  return convert_lvdm.networks(command_line.load_config(str(CONFIGS / f"{name}.py")))


def _numbers(shapes):
  """Numbers that are stored: an alias shares its original's storage."""
  original = lambda name: name.removesuffix("weight") + "conv.weight"
  return sum(math.prod(s) for n, s in shapes.items() if original(n) not in shapes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_at_full_size(fixtures, name):
  config, unet, autoencoder, ema, count, size = PUBLISHED[name]
  recorded = _recorded(fixtures)
  shapes = lvdm_files.names_and_shapes(_networks(config), ema, own=False)
  assert len(shapes) == count
  expected = {f"model.diffusion_model.{k}": s for k, s in recorded[unet].items()}
  if ema:
    dotless = lambda key: f"diffusion_model.{key}".replace(".", "")
    expected |= {f"model_ema.{dotless(k)}": s for k, s in recorded[unet].items()}
    expected |= {"model_ema.decay": (), "model_ema.num_updates": ()}
  first = recorded[autoencoder]
  expected |= {f"first_stage_model.{k}": s for k, s in first.items()}
  expected |= dict.fromkeys(parts.SCHEDULE, (1000,))
  text = {k: s for k, s in shapes.items() if k.startswith("cond_stage_model.")}
  # CLIP ViT-L/14's text tower: 12 layers of 16 tensors, 4 around them.
  assert len(text) == (196 if name == "t2v" else 0)
  assert shapes == expected | text
  # The published size is known without the file: 4 bytes a number, and the archive.
  overhead = size - 4 * _numbers(shapes)
  assert 0 < overhead < 450 * count


def test_published_autoencoders_at_full_size(fixtures):
  shapes = lvdm_files.names_and_shapes(_networks("lvdm_sky"), ema=False, own=True)
  # The critic of the release, layer by layer: 4x4 convolutions and batch norms.
  critic = {"main.0.weight": (64, 3, 4, 4), "main.0.bias": (64,)}
  widths = {2: (64, 128), 5: (128, 256), 8: (256, 512)}
  for i, (a, b) in widths.items():
    critic[f"main.{i}.weight"] = (b, a, 4, 4)
    for leaf in ("weight", "bias", "running_mean", "running_var"):
      critic[f"main.{i + 1}.{leaf}"] = (b,)
  critic |= {"main.11.weight": (1, 512, 4, 4), "main.11.bias": (1,)}
  expected = {f"loss.discriminator.{k}": s for k, s in critic.items()}
  assert shapes == expected | _recorded(fixtures)["ae"] | {"loss.logvar": ()}
  overhead = 147_781_521 - 4 * (_numbers(shapes) + LPIPS)
  assert 0 < overhead < 600 * len(shapes)


@pytest.fixture(scope="module")
def networks():
  return convert_lvdm.networks(tiny.config())


@pytest.fixture(scope="module")
def state(networks):
  return lvdm_files.state(networks)


def test_parts_and_round_trip(networks, state):
  tree, left = parts.to_tree(state, networks)
  assert left == []
  assert set(tree) == {"denoiser", "ema", "ema_state", "video", "schedule"}
  name, path = "out.2.bias", ("out_conv", "bias")
  for part, full in (
    ("denoiser", f"model.diffusion_model.{name}"),
    ("ema", "model_ema.diffusion_modelout2bias"),
  ):
    np.testing.assert_array_equal(keys.flatten(tree[part])[path], state[full])
  assert tree["ema_state"]["num_updates"] == 21
  again = parts.to_state(tree)
  assert set(again) == set(state)
  for name, value in state.items():
    np.testing.assert_array_equal(again[name], value, strict=True)


def test_without_averages(networks, state):
  raw = {k: v for k, v in state.items() if not k.startswith("model_ema.")}
  tree, _ = parts.to_tree(raw, networks)
  assert "ema" not in tree and "denoiser" in tree


UNET = "model.diffusion_model."
CONV = "first_stage_model.encoder.conv_first.conv"
ALIAS = "first_stage_model.encoder.conv_first.weight"


@pytest.mark.parametrize(
  "key, change, message",
  (
    (f"{UNET}out.2.bias", "drop", f"1 differences): {UNET}out.2.bias is missing"),
    ("model_ema.diffusion_modelout2bias", "drop", "out2bias is missing"),
    ("model_ema.diffusion_modelout2bias", "dots", "model.out.2.bias is unused"),
    ("model_ema.num_updates", "drop", "model_ema.num_updates is missing"),
    (f"{UNET}time_embed.0.weight", "rename", "time_embed.0.weight_ is unused"),
    (f"{UNET}time_embed.0.weight", "transpose", "shape (32, 128), expected (128, 32)"),
    (f"{CONV}.weight", "transpose", "conv.weight has shape"),
    ("first_stage_model.decoder.conv_out.conv.bias", "drop", "conv_out.conv.bias is m"),
    (ALIAS, "drop", f"{ALIAS} is missing"),
    (ALIAS, "add", f"{ALIAS} differs from {CONV}.weight"),
    (f"{CONV}.weight", "add", f"{ALIAS} differs from {CONV}.weight"),
    ("betas", "drop", "betas is missing"),
    ("alphas_cumprod", "short", "alphas_cumprod has shape (999,), expected (1000,)"),
    (f"{UNET}out.2.bias", "nan", "out.2.bias is not finite"),
    ("scale_factor", "new", "scale_factor is unused"),
    ("loss.perceptual_loss.lin0.model.1.weight", "new", "weight is unused"),
    (lvdm_files.POSITION_IDS, "new", "position_ids is unused"),
  ),
)
def test_a_change_is_refused_by_name(networks, state, key, change, message):
  state = dict(state)
  value = state.pop(key, np.zeros(1, np.float32))
  if change != "drop":
    dotted = "model_ema.model.out.2.bias"
    name = {"dots": dotted, "rename": f"{key}_"}.get(change, key)
    state[name] = {
      "transpose": lambda: value.T,
      "add": lambda: value + 1,
      "short": lambda: value[1:],
      "nan": lambda: value * np.float32(np.nan),
    }.get(change, lambda: value)()
  with pytest.raises(WeightsError) as error:
    parts.to_tree(state, networks)
  assert message in str(error.value)


def test_all_changes_are_listed_at_once(networks, state):
  state = dict(state)
  for name in ("betas", f"{UNET}out.2.bias", ALIAS):
    del state[name]
  with pytest.raises(WeightsError, match="3 differences") as error:
    parts.to_tree(state, networks)
  for name in ("betas", f"{UNET}out.2.bias", ALIAS):
    assert f"{name} is missing" in str(error.value)


def test_an_autoencoder_with_its_critic_and_without():
  big = convert_lvdm.networks(
    tiny.config(model__discriminator__layers=3, data__size=64)
  )
  state = lvdm_files.state(big, ema=False, own=True)
  tree, left = parts.to_tree(state, big)
  assert set(tree) == {"video", "critic", "loss"}
  counter = "loss.discriminator.main.3.num_batches_tracked"
  assert sorted(left) == sorted([*lvdm_files.LPIPS, counter])
  mean = tree["critic"]["batch_stats"]["patches"]["norm_2"]["mean"]
  np.testing.assert_array_equal(mean, state["loss.discriminator.main.6.running_mean"])
  lost = {k: v for k, v in state.items() if not k.endswith("main.6.running_mean")}
  with pytest.raises(WeightsError, match="main.6.running_mean is missing"):
    parts.to_tree(lost, big)
  tree, left = parts.to_tree(state, big._replace(critic=None))
  assert set(tree) == {"video"}
  assert set(left) == {k for k in state if k.startswith("loss.")}


def test_half_precision_becomes_float32(networks, state):
  half = {k: v.astype("f2") if v.dtype == "f4" else v for k, v in state.items()}
  tree, _ = parts.to_tree(half, networks)
  assert {x.dtype for x in jax.tree.leaves(tree["denoiser"])} == {np.dtype("f4")}
