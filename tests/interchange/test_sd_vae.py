# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion's autoencoder by three schemes of names, strict and bit-equal."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import sd_vae
from lamd_jax.networks.image_autoencoder import ImageAutoencoder
from lamd_jax.nn import initializers
from lamd_jax.tools import convert
from lamd_jax.tools import convert_sd_vae
import torch_writer

FRAME = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
SCHEMES = ("ldm", "diffusers", "older")
TINY = ImageAutoencoder(4, (1, 2, 2), 1, 2, 4)
# Pairs at full size, each kind of part once; the decoder's levels are reversed.
PAIRS = {
  "encoder.conv_in.weight": "encoder.conv_in.weight",
  "encoder.down.1.block.0.nin_shortcut.bias":
    "encoder.down_blocks.1.resnets.0.conv_shortcut.bias",
  "encoder.down.2.downsample.conv.weight":
    "encoder.down_blocks.2.downsamplers.0.conv.weight",
  "encoder.mid.block_2.norm1.bias": "encoder.mid_block.resnets.1.norm1.bias",
  "encoder.norm_out.weight": "encoder.conv_norm_out.weight",
  "quant_conv.weight": "quant_conv.weight",
  "decoder.up.3.block.2.conv1.weight": "decoder.up_blocks.0.resnets.2.conv1.weight",
  "decoder.up.1.block.0.nin_shortcut.weight":
    "decoder.up_blocks.2.resnets.0.conv_shortcut.weight",
  "decoder.up.1.upsample.conv.bias": "decoder.up_blocks.2.upsamplers.0.conv.bias",
  "decoder.mid.attn_1.norm.weight":
    "decoder.mid_block.attentions.0.group_norm.weight",
  "decoder.mid.attn_1.q.weight": "decoder.mid_block.attentions.0.to_q.weight",
  "decoder.mid.attn_1.k.bias": "decoder.mid_block.attentions.0.to_k.bias",
  "decoder.mid.attn_1.v.weight": "decoder.mid_block.attentions.0.to_v.weight",
  "decoder.mid.attn_1.proj_out.weight":
    "decoder.mid_block.attentions.0.to_out.0.weight",
}  # fmt: skip
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def full():
  return initializers.shapes(convert_sd_vae.released(), FRAME)["params"]


def test_published_names_at_full_size(full, fixtures):
  recorded = json.loads((fixtures / "lvdm" / "lvdm_full_keys.json").read_text())
  ldm = keys.source_shapes(full, sd_vae.rules(full, "ldm"))
  assert ldm == {k: tuple(v) for k, v in recorded["ae2d_t2v"].items()}
  paths = {rule.source: rule.path for rule in sd_vae.rules(full, "ldm")}
  newer = {rule.path: rule.source for rule in sd_vae.rules(full, "diffusers")}
  older = {rule.path: rule.source for rule in sd_vae.rules(full, "older")}
  for name, theirs in PAIRS.items():
    assert newer[paths[name]] == theirs
    for new, old in OLDER.items():
      theirs = theirs.replace(f".{new}.", f".{old}.")
    assert older[paths[name]] == theirs
  shapes = keys.source_shapes(full, sd_vae.rules(full, "diffusers"))
  assert len(shapes) == 248
  assert shapes["decoder.mid_block.attentions.0.to_q.weight"] == (512, 512)
  assert ldm["decoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)


@pytest.fixture(scope="module")
def params():
  return initializers.initialize(TINY, 0, FRAME)["params"]


@pytest.mark.parametrize("names", SCHEMES)
def test_round_trip_in_each_scheme(params, names):
  state = sd_vae.to_state(params, names)
  assert sd_vae.naming(state) == names
  jax.tree.map(
    np.testing.assert_array_equal, sd_vae.to_params(state, params), params
  )


def test_attention_is_the_same_matrix_in_each_scheme(params):
  ldm, newer, older = (sd_vae.to_state(params, names) for names in SCHEMES)
  matrix = ldm["encoder.mid.attn_1.k.weight"][:, :, 0, 0]
  at = "encoder.mid_block.attentions.0"
  np.testing.assert_array_equal(newer[f"{at}.to_k.weight"], matrix)
  np.testing.assert_array_equal(older[f"{at}.key.weight"], matrix)


@pytest.mark.parametrize("names", SCHEMES)
def test_changes_are_refused_in_the_names_of_the_file(params, names):
  state = sd_vae.to_state(params, names)
  key = next(k for k in state if k.startswith("decoder.up") and "conv1.weight" in k)
  value = state.pop(key)
  with pytest.raises(WeightsError, match=rf"1 differences\): {key} is missing"):
    sd_vae.to_params(state, params)
  with pytest.raises(WeightsError, match=f"{key}_ is unused"):
    sd_vae.to_params({**state, f"{key}_": value}, params)
  wide = next(k for k, v in state.items() if v.ndim == 4 and v.shape[0] != v.shape[1])
  turned = {**state, key: value, wide: state[wide].swapaxes(0, 1)}
  with pytest.raises(WeightsError, match=f"{wide} has shape"):
    sd_vae.to_params(turned, params)


@pytest.mark.parametrize(
  "prefix, rest",
  (
    ("", ("loss.logvar", "model_ema.decay")),
    ("module.", ()),
    ("vae.", ("unet.conv_in.weight", "text_encoder.x")),
    ("first_stage_model.", ("model.diffusion_model.out.2.bias", "betas")),
    ("first_stage_model.module.", ("cond_stage_model.x", "sqrt_alphas_cumprod")),
  ),
)
def test_wrappings(params, prefix, rest):
  state = sd_vae.to_state(params)
  wrapped = {prefix + name: value for name, value in state.items()}
  wrapped |= dict.fromkeys(rest, np.zeros(1, np.float32))
  found, unused = sd_vae.unwrap(wrapped)
  assert set(found) == set(state) and unused == list(rest)


def test_strange_names_beside_an_autoencoder(params):
  state = {f"vae.{name}": value for name, value in sd_vae.to_state(params).items()}
  found, _ = sd_vae.unwrap({**state, "strange": np.zeros(1)})
  with pytest.raises(WeightsError, match="strange is unused"):
    sd_vae.to_params(found, params)
  with pytest.raises(WeightsError, match="quant_conv.bias is there twice"):
    sd_vae.unwrap({**state, "quant_conv.bias": np.zeros(1)})


@pytest.mark.parametrize("names, kind", (("older", "zip"), ("diffusers", "safe")))
def test_the_command(params, tmp_path, monkeypatch, capsys, names, kind):
  monkeypatch.setattr(convert_sd_vae, "released", lambda: TINY)
  state = sd_vae.to_state(params, names)
  out = tmp_path / "sd_vae.safetensors"
  if kind == "zip":
    source = tmp_path / "vae.ckpt"
    torch_writer.write_training(source, state)
  else:
    source = tmp_path / "vae.safetensors"
    safetensors_file.write(source, state, {})
  assert convert.main(["sd-vae", str(source), f"--out={out}"]) == 0
  expected = sd_vae.to_state(params)
  found = safetensors_file.read(out)
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, strict=True)
  record = json.loads((tmp_path / "sd_vae.safetensors.json").read_text())
  attention = record["keys"]["decoder.mid.attn_1.q.weight"]
  assert attention.endswith("query.weight" if names == "older" else "to_q.weight")
  # The published network does not fit the tiny file: nothing is written.
  monkeypatch.undo()
  capsys.readouterr()
  out.unlink()
  assert convert.main(["sd-vae", str(source), f"--out={out}"]) == 4
  error = capsys.readouterr().err
  assert error.startswith(f"lamd_jax: {source}: ") and error.count("\n") == 1
  assert not out.exists()
