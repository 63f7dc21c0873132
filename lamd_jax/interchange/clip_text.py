# SPDX-License-Identifier: Apache-2.0
"""The weights of CLIP's text tower: Hugging Face's names on disk, OpenAI's also read.

  text_model.embeddings.{token_embedding,position_embedding}.weight
  text_model.encoder.layers.N.{layer_norm1,self_attn.{q,k,v,out}_proj,layer_norm2,
    mlp.fc1,mlp.fc2}.{weight,bias}
  text_model.final_layer_norm.{weight,bias}
  text_projection.weight                     only of files that have it

transformers 5 leaves `text_model.` out where there is no projection.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import clip_text
from lamd_jax.nn import initializers

FILE_NAME = "clip_vit_l_14_text.safetensors"
PROJECTION = "text_projection.weight"
# Buffers of older files (positions, OpenCLIP's causal mask), the temperature of CLIP's
# loss, and two settings that OpenAI's state dict carries.
IGNORED = (
  "text_model.embeddings.position_ids",
  "logit_scale",
  "context_length",
  "vocab_size",
  "attn_mask",
)
# CLIP's other half, by the starts of its names.
OF_IMAGES = ("vision_model.", "visual_projection.", "visual.", "input_resolution")

_BARE = ("embeddings.", "encoder.", "final_layer_norm.")
_OPENAI_BLOCK = "transformer.resblocks."
_OPENAI = {
  "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
  "positional_embedding": "text_model.embeddings.position_embedding.weight",
  "ln_final.weight": "text_model.final_layer_norm.weight",
  "ln_final.bias": "text_model.final_layer_norm.bias",
}
_OPENAI_PARTS = {
  "ln_1": "layer_norm1",
  "attn.out_proj": "self_attn.out_proj",
  "ln_2": "layer_norm2",
  "mlp.c_fc": "mlp.fc1",
  "mlp.c_proj": "mlp.fc2",
}

_BIAS = {"bias": ("bias", "copy")}
_NORM = {"scale": ("weight", "copy"), **_BIAS}
_DENSE = {"kernel": ("weight", "dense"), **_BIAS}
_PARTS = {
  "attention_norm": ("layer_norm1", _NORM),
  "q": ("self_attn.q_proj", _DENSE),
  "k": ("self_attn.k_proj", _DENSE),
  "v": ("self_attn.v_proj", _DENSE),
  "out": ("self_attn.out_proj", _DENSE),
  "dense_norm": ("layer_norm2", _NORM),
  "dense_0": ("mlp.fc1", _DENSE),
  "dense_1": ("mlp.fc2", _DENSE),
}
_SINGLE = {
  ("tokens",): ("text_model.embeddings.token_embedding.weight", "copy"),
  ("positions",): ("text_model.embeddings.position_embedding.weight", "copy"),
  ("final_norm", "scale"): ("text_model.final_layer_norm.weight", "copy"),
  ("final_norm", "bias"): ("text_model.final_layer_norm.bias", "copy"),
  ("projection_kernel",): (PROJECTION, "dense"),
}


def shapes(network: clip_text.ClipText) -> dict[str, Any]:
  """Returns the parameters of `network` as nested ShapeDtypeStructs."""
  tokens = jax.ShapeDtypeStruct((1, network.length), jnp.int32)
  return initializers.shapes(network, tokens)["params"]


def rules(params: keys.Params) -> list[keys.Rule]:
  """Returns one rule per parameter of a `ClipText`, or of their shapes."""
  return [_rule(path) for path in keys.flatten(params)]


def _rule(path: tuple[str, ...]) -> keys.Rule:
  if path in _SINGLE:
    return keys.Rule(_SINGLE[path][0], path, _SINGLE[path][1])
  block, part, leaf = path
  theirs, leaves = _PARTS[part]
  name, layout = leaves[leaf]
  number = block.removeprefix("block_")
  source = f"text_model.encoder.layers.{number}.{theirs}.{name}"
  return keys.Rule(source, path, layout)


def hugging_face_names(state: keys.State) -> dict[str, np.ndarray]:
  """Renames OpenAI's names and those without `text_model.`; leaves all others alone.

  OpenAI's fused projection becomes three, its text projection is transposed.
  """
  openai = any(name.startswith(_OPENAI_BLOCK) for name in state)
  renamed: dict[str, np.ndarray] = {}
  for name, value in state.items():
    if openai:
      renamed.update(_from_openai(name, value))
    elif name.startswith(_BARE):
      renamed[f"text_model.{name}"] = value
    else:
      renamed[name] = value
  return renamed


def _from_openai(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
  if name in _OPENAI:
    return {_OPENAI[name]: value}
  if name == "text_projection":
    return {PROJECTION: value.T}
  if not name.startswith(_OPENAI_BLOCK):
    return {name: value}
  number, _, rest = name.removeprefix(_OPENAI_BLOCK).partition(".")
  layer = f"text_model.encoder.layers.{number}"
  part, _, leaf = rest.rpartition(".")
  if part in _OPENAI_PARTS:
    return {f"{layer}.{_OPENAI_PARTS[part]}.{leaf}": value}
  fused = {"attn.in_proj_weight": "weight", "attn.in_proj_bias": "bias"}
  if rest not in fused or len(value) % 3:
    return {name: value}  # which is then reported as unused
  parts = zip("qkv", np.split(value, 3))
  return {f"{layer}.self_attn.{p}_proj.{fused[rest]}": rows for p, rows in parts}


def to_params(
  state: keys.State, network: clip_text.ClipText = clip_text.VIT_L_14
) -> dict[str, Any]:
  """Renames a state dict to the parameters of `network`, float32.

  Args:
    state: {name: array}, the names above or OpenAI's; `IGNORED` ones may stand there
      too, and the projection if `network` has none.
    network: whose widths and layers the state must have.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, in
      Hugging Face's names, or that are not finite.
  """
  ignored = IGNORED if network.projection else (*IGNORED, PROJECTION)
  expected = shapes(network)
  state = hugging_face_names(state)
  params = keys.to_params(state, rules(expected), expected, ignored)
  flat = {path: v.astype(np.float32) for path, v in keys.flatten(params).items()}
  bad = [f"{'/'.join(p)} is not finite" for p, v in flat.items() if not _finite(v)]
  if bad:
    raise WeightsError(f"these are no weights of CLIP: {'; '.join(bad)}")
  return keys.nest(flat)


def _finite(array: np.ndarray) -> bool:
  return bool(np.isfinite(array).all())


def to_state(params: keys.Params) -> dict[str, np.ndarray]:
  """The inverse of `to_params`, in Hugging Face's names."""
  return keys.to_state(params, rules(params))


def load(
  path: str | pathlib.Path, network: clip_text.ClipText = clip_text.VIT_L_14
) -> dict[str, Any]:
  """Reads the parameters of `network` from a safetensors file.

  Raises:
    WeightsError: one line that begins with the file's name.
  """
  if not pathlib.Path(path).expanduser().is_file():
    raise WeightsError(how_to_get(path))
  state = safetensors_file.read(path)
  try:
    return to_params(state, network)
  except WeightsError as error:
    raise WeightsError(f"{path}: {error}") from error


def how_to_get(path: str | pathlib.Path) -> str:
  """Returns, on one line, what to do about a file that is not there."""
  return (
    f"{path} does not exist or is no file; CLIP's text tower is made once by python -m"
    f" lamd_jax.tools.convert clip --source model.safetensors --out {FILE_NAME}, from"
    " model.safetensors or pytorch_model.bin of openai/clip-vit-large-patch14 on"
    " Hugging Face (for scores of B/32 or H/14 say --network b32 or h14)"
  )
