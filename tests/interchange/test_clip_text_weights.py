# SPDX-License-Identifier: Apache-2.0
"""Every name of CLIP's text tower has one place in ours, in all forms it comes in."""

import json

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import clip_text as network_file

TINY = network_file.ClipText(12, 8, 2, 2, 5, projection=6)
LAYER = "text_model.encoder.layers.1"


def test_full_size_maps_one_to_one(fixtures):
  # Names and shapes of transformers' CLIPTextModelWithProjection.
  recorded = json.loads((fixtures / "clip" / "full_keys.json").read_text())
  network = network_file.VIT_L_14.clone(projection=768)
  shapes = clip_text.shapes(network)
  rules = clip_text.rules(shapes)
  theirs = keys.source_shapes(shapes, rules)
  assert theirs == {k: tuple(v) for k, v in recorded.items()}
  paths = {rule.path for rule in rules}
  assert len(paths) == len(recorded) == 197 and paths == set(keys.flatten(shapes))
  bare = keys.source_shapes(
    clip_text.shapes(network_file.VIT_L_14),
    clip_text.rules(clip_text.shapes(network_file.VIT_L_14)),
  )
  assert set(theirs) - set(bare) == {"text_projection.weight"}


def test_full_size_of_the_other_towers(fixtures):
  # transformers' ViT-B/32, and ViT-H/14 as open_clip names it (fixtures/clip/make.py).
  read = lambda name: json.loads((fixtures / "clip" / name).read_text())
  expected = clip_text.shapes(network_file.VIT_B_32)
  theirs = keys.source_shapes(expected, clip_text.rules(expected))
  assert theirs == {k: tuple(v) for k, v in read("full_keys_b32.json").items()}
  published = {
    k: np.broadcast_to(np.float32(0), v)  # no memory
    for k, v in read("openclip_h14_keys.json").items()
    if not k.startswith(clip_text.OF_IMAGES) and k not in clip_text.IGNORED
  }
  renamed = clip_text.hugging_face_names(published)
  expected = clip_text.shapes(network_file.VIT_H_14)
  theirs = keys.source_shapes(expected, clip_text.rules(expected))
  assert {k: v.shape for k, v in renamed.items()} == theirs and len(theirs) == 389


@pytest.fixture(scope="module")
def state():
  shapes = clip_text.shapes(TINY)
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, shape in keys.source_shapes(shapes, clip_text.rules(shapes)).items()
  }


def _same(a, b):
  a, b = keys.flatten(a), keys.flatten(b)
  assert set(a) == set(b)
  for path, value in a.items():
    np.testing.assert_array_equal(value, b[path], strict=True)


def test_round_trip_is_bit_equal(state):
  again = clip_text.to_state(clip_text.to_params(state, TINY))
  _same(again, state)


def test_each_tensor_goes_to_its_place(state):
  params = clip_text.to_params(state, TINY)
  block = params["block_1"]
  for ours, theirs in [
    (params["tokens"], "text_model.embeddings.token_embedding.weight"),
    (params["positions"], "text_model.embeddings.position_embedding.weight"),
    (block["attention_norm"]["scale"], f"{LAYER}.layer_norm1.weight"),
    (block["dense_norm"]["bias"], f"{LAYER}.layer_norm2.bias"),
    (block["k"]["kernel"].T, f"{LAYER}.self_attn.k_proj.weight"),
    (block["out"]["bias"], f"{LAYER}.self_attn.out_proj.bias"),
    (block["dense_0"]["kernel"].T, f"{LAYER}.mlp.fc1.weight"),
    (params["projection_kernel"].T, "text_projection.weight"),
  ]:
    np.testing.assert_array_equal(ours, state[theirs])


def openai_names(state):
  """The same weights as OpenAI publishes them, written out here once more."""
  layer = "text_model.encoder.layers"
  found = {
    "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
    "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
    "ln_final.weight": state["text_model.final_layer_norm.weight"],
    "ln_final.bias": state["text_model.final_layer_norm.bias"],
    "text_projection": state["text_projection.weight"].T,
  }
  for i in range(2):
    attention = f"{layer}.{i}.self_attn"
    for leaf in ("weight", "bias"):
      found[f"transformer.resblocks.{i}.attn.in_proj_{leaf}"] = np.concatenate(
        [state[f"{attention}.{p}_proj.{leaf}"] for p in "qkv"]
      )
      for ours, theirs in [
        ("self_attn.out_proj", "attn.out_proj"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
      ]:
        value = state[f"{layer}.{i}.{ours}.{leaf}"]
        found[f"transformer.resblocks.{i}.{theirs}.{leaf}"] = value
  return found


def test_other_names_give_the_same(state):
  params = clip_text.to_params(state, TINY)
  _same(clip_text.to_params(openai_names(state), TINY), params)
  bare = {name.removeprefix("text_model."): value for name, value in state.items()}
  _same(clip_text.to_params(bare, TINY), params)


def test_what_the_tower_does_not_use_may_be_there(state):
  more = {
    **state,
    "text_model.embeddings.position_ids": np.arange(5)[None],
    "logit_scale": np.array(4.6, np.float32),
  }
  _same(clip_text.to_params(more, TINY), clip_text.to_params(state, TINY))
  bare = clip_text.to_params(state, TINY.clone(projection=0))
  assert "projection_kernel" not in bare
  with pytest.raises(WeightsError, match="vision_model.x is unused"):
    clip_text.to_params({**state, "vision_model.x": np.zeros(1)}, TINY)


@pytest.mark.parametrize(
  "key, mutate, message",
  [
    (f"{LAYER}.mlp.fc1.bias", "drop", rf"\(1 differences\): {LAYER}.mlp.fc1.bias is m"),
    (f"{LAYER}.layer_norm2.bias", "rename", f"{LAYER}.layer_norm2.bias is missing"),
    (f"{LAYER}.layer_norm2.bias", "rename", f"{LAYER}.layer_norm2.bias_ is unused"),
    (
      f"{LAYER}.mlp.fc1.weight",
      "transpose",
      rf"{LAYER}.mlp.fc1.weight has shape \(8, 32\), expected \(32, 8\)",
    ),
    ("text_projection.weight", "transpose", r"has shape \(8, 6\), expected \(6, 8\)"),
    (f"{LAYER}.mlp.fc2.weight", "nan", "block_1/dense_1/kernel is not finite"),
  ],
)
def test_a_damaged_state_is_refused_by_name(state, key, mutate, message):
  state = dict(state)
  value = state.pop(key)
  if mutate == "rename":
    state[key + "_"] = value
  elif mutate == "transpose":
    state[key] = value.T
  elif mutate == "nan":
    state[key] = value * np.nan
  with pytest.raises(WeightsError, match=message):
    clip_text.to_params(state, TINY)


def test_damage_in_openai_names_is_refused(state):
  theirs = openai_names(state)
  key = "transformer.resblocks.0.attn.in_proj_bias"
  whole = theirs.pop(key)
  with pytest.raises(WeightsError, match=r"\(3 diff.*layers.0.self_attn.k_proj.bias"):
    clip_text.to_params(theirs, TINY)
  with pytest.raises(WeightsError, match=f"{key} is unused"):
    clip_text.to_params({**theirs, key: whole[:-1]}, TINY)
  with pytest.raises(WeightsError, match="resblocks.0.ln_3.bias is unused"):
    more = {key: whole, "transformer.resblocks.0.ln_3.bias": whole}
    clip_text.to_params({**theirs, **more}, TINY)
  transposed = {**theirs, key: whole, "text_projection": theirs["text_projection"].T}
  with pytest.raises(WeightsError, match=r"text_projection.weight has shape \(8, 6\)"):
    clip_text.to_params(transposed, TINY)


def test_load_names_the_file_and_what_to_do(state, tmp_path):
  path = tmp_path / "clip.safetensors"
  with pytest.raises(WeightsError) as caught:
    clip_text.load(path)
  said = str(caught.value)
  assert said.startswith(f"{path} does not exist") and "\n" not in said
  assert "lamd_jax.tools.convert clip --source" in said and "vit-large-patch14" in said
  narrow = {name: value.astype(np.float16) for name, value in state.items()}
  safetensors_file.write(path, narrow, {})
  wide = {name: value.astype(np.float32) for name, value in narrow.items()}
  _same(clip_text.load(path, TINY), clip_text.to_params(wide, TINY))
  with pytest.raises(WeightsError, match=f"^{path}: weights do not fit"):
    clip_text.load(path)
