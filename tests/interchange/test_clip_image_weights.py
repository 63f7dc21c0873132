# SPDX-License-Identifier: Apache-2.0
"""Every name of CLIP's image tower has one place in ours; the converter keeps the rest out."""

import json

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_image
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import clip_image as network_file
from lamd_jax.tools import convert
from lamd_jax.tools import convert_clip_image
import torch_writer

TINY = network_file.ClipImage(8, 2, 2, 4, 6, size=8)
LAYER = "vision_model.encoder.layers"


def test_full_size_maps_one_to_one(fixtures):
  # Names and shapes of transformers' CLIPVisionModelWithProjection.
  recorded = json.loads((fixtures / "clip" / "image_full_keys.json").read_text())
  expected = clip_image.shapes(network_file.VIT_L_14)
  theirs = keys.source_shapes(expected, clip_image.rules(expected))
  assert theirs == {k: tuple(v) for k, v in recorded.items()}


def test_h14_is_open_clips(fixtures):
  # Names and shapes of open_clip's ViT-H-14 (fixtures/clip/make.py).
  recorded = json.loads((fixtures / "clip" / "openclip_h14_keys.json").read_text())
  published = {
    k: np.broadcast_to(np.float32(0), v)  # no memory
    for k, v in recorded.items() if not clip_image.is_unused(k)
  }  # fmt: skip
  renamed = clip_image.hugging_face_names(published)
  expected = clip_image.shapes(network_file.VIT_H_14)
  theirs = keys.source_shapes(expected, clip_image.rules(expected))
  assert {k: v.shape for k, v in renamed.items()} == theirs


@pytest.fixture(scope="module")
def state():
  expected = clip_image.shapes(TINY)
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, shape in keys.source_shapes(expected, clip_image.rules(expected)).items()
  }


def _openai(state):
  """The same weights as OpenAI publishes them, written out here once more."""
  root = "vision_model"
  found = {
    "visual.conv1.weight": state[f"{root}.embeddings.patch_embedding.weight"],
    "visual.class_embedding": state[f"{root}.embeddings.class_embedding"],
    "visual.positional_embedding": state[f"{root}.embeddings.position_embedding.weight"],
    "visual.proj": state["visual_projection.weight"].T,
  }
  for leaf in ("weight", "bias"):
    found[f"visual.ln_pre.{leaf}"] = state[f"{root}.pre_layrnorm.{leaf}"]
    found[f"visual.ln_post.{leaf}"] = state[f"{root}.post_layernorm.{leaf}"]
    for i in range(2):
      block = f"visual.transformer.resblocks.{i}"
      rows = [state[f"{LAYER}.{i}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
      found[f"{block}.attn.in_proj_{leaf}"] = np.concatenate(rows)
      for theirs, ours in [
        ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
      ]:  # fmt: skip
        found[f"{block}.{theirs}.{leaf}"] = state[f"{LAYER}.{i}.{ours}.{leaf}"]
  return found


# What the rest of CLIP adds to the file, in either naming.
REST = {
  "logit_scale": np.float32([4.6]),
  "text_model.final_layer_norm.weight": np.ones(8, np.float32),
  "text_projection.weight": np.ones((8, 8), np.float32),
}
OPENAI_REST = {
  "logit_scale": np.float32([4.6]),
  "token_embedding.weight": np.ones((3, 8), np.float32),
  "positional_embedding": np.ones((3, 8), np.float32),
  "transformer.resblocks.0.ln_1.weight": np.ones(8, np.float32),
  "ln_final.bias": np.ones(8, np.float32),
  "text_projection": np.ones((8, 8), np.float32),
}


def _same(a, b):
  assert set(a) == set(b)
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], strict=True)


def test_all_forms_give_the_same_file(state, tmp_path):
  out = tmp_path / "out.safetensors"
  bare = {k.removeprefix("vision_model."): v for k, v in state.items()}
  safetensors_file.write(tmp_path / "a.safetensors", {**state, **REST}, {})
  torch_writer.write_state(tmp_path / "b.pt", {**_openai(state), **OPENAI_REST}, False)
  torch_writer.write_state(tmp_path / "c.bin", bare, True)
  for name in ("a.safetensors", "b.pt", "c.bin"):
    convert_clip_image.convert_clip_image(tmp_path / name, out, TINY, "tiny")
    _same(safetensors_file.read(out), state)
  record = json.loads((tmp_path / "out.safetensors.json").read_text())
  assert record["part"] == "clip_image_tiny" and not record["not_used"]


def test_each_tensor_goes_to_its_place(state):
  params = clip_image.to_params(state, TINY)
  patches = state["vision_model.embeddings.patch_embedding.weight"]
  np.testing.assert_array_equal(params["patch_kernel"][0, 1, 2], patches[:, :, 1, 2].T)
  for ours, theirs in [
    (params["block_1"]["dense_0"]["kernel"].T, f"{LAYER}.1.mlp.fc1.weight"),
    (params["post_norm"]["bias"], "vision_model.post_layernorm.bias"),
    (params["pre_norm"]["scale"], "vision_model.pre_layrnorm.weight"),
    (params["projection_kernel"].T, "visual_projection.weight"),
  ]:
    np.testing.assert_array_equal(ours, state[theirs])
  _same(clip_image.to_state(params), state)


def test_mutations_are_refused(state, tmp_path, capsys):
  name = f"{LAYER}.0.mlp.fc1.weight"
  for mutated, message in [
    ({k: v for k, v in state.items() if k != name}, f"{name} is missing"),
    ({**state, name: state[name].T}, f"{name} has shape"),
    ({**state, "vision_model.head.weight": state[name]}, "head.weight is unused"),
    ({**state, name: state[name] * np.nan}, "block_0/dense_0/kernel not finite"),
  ]:
    with pytest.raises(WeightsError, match=message):
      clip_image.to_params(mutated, TINY)
  with pytest.raises(WeightsError, match="visual.attnpool.bias is unused"):
    clip_image.to_params({**_openai(state), "visual.attnpool.bias": state[name]}, TINY)
  # The command expects a published network: another width is refused.
  source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
  safetensors_file.write(source, state, {})
  call = lambda *more: convert.main(
    ["clip-image", f"--source={source}", f"--out={out}", *more]
  )
  assert call("--network=b32") == 4
  assert capsys.readouterr().err.count("\n") == 1 and not out.exists()
  with pytest.raises(WeightsError, match="tools.convert clip-image"):
    clip_image.load(out, TINY)
