# SPDX-License-Identifier: Apache-2.0
"""The weights of CLIP's image tower: Hugging Face's names on disk, OpenAI's also read.

  vision_model.embeddings.{class_embedding,patch_embedding.weight,
    position_embedding.weight}
  vision_model.{pre_layrnorm,post_layernorm}.{weight,bias}      (sic)
  vision_model.encoder.layers.N. ...                            as in the text tower
  visual_projection.weight

OpenAI and OpenCLIP say visual.conv1.weight, visual.transformer.resblocks.N. ...,
visual.proj (not transposed). transformers 5 may leave `vision_model.` out.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import clip_image
from lamd_jax.nn import initializers

PROJECTION = "visual_projection.weight"
# A buffer of older files, the temperature of CLIP's loss, OpenAI's settings.
IGNORED = (
  "vision_model.embeddings.position_ids", "logit_scale", "input_resolution",
  "context_length", "vocab_size",
)  # fmt: skip
# CLIP's other half, by the starts of its names.
OF_TEXT = (
  "text_model.", "text_projection", "token_embedding.", "positional_embedding",
  "ln_final.", "transformer.", "attn_mask",
)  # fmt: skip

_ROOT, _TEXT_ROOT = "vision_model.", "text_model."
_BARE = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
_OPENAI_ROOT = "visual."
_SINGLE = {
  ("patch_kernel",): (_ROOT + "embeddings.patch_embedding.weight", "conv2d"),
  ("class_embedding",): (_ROOT + "embeddings.class_embedding", "copy"),
  ("positions",): (_ROOT + "embeddings.position_embedding.weight", "copy"),
  ("pre_norm", "scale"): (_ROOT + "pre_layrnorm.weight", "copy"),
  ("pre_norm", "bias"): (_ROOT + "pre_layrnorm.bias", "copy"),
  ("post_norm", "scale"): (_ROOT + "post_layernorm.weight", "copy"),
  ("post_norm", "bias"): (_ROOT + "post_layernorm.bias", "copy"),
  ("projection_kernel",): (PROJECTION, "dense"),
}
_OPENAI = {
  "conv1.weight": _ROOT + "embeddings.patch_embedding.weight",
  "class_embedding": _ROOT + "embeddings.class_embedding",
  "positional_embedding": _ROOT + "embeddings.position_embedding.weight",
  "ln_pre.weight": _ROOT + "pre_layrnorm.weight",
  "ln_pre.bias": _ROOT + "pre_layrnorm.bias",
  "ln_post.weight": _ROOT + "post_layernorm.weight",
  "ln_post.bias": _ROOT + "post_layernorm.bias",
}


@functools.cache
def shapes(network: clip_image.ClipImage) -> dict[str, Any]:
  """Returns the parameters of `network` as nested ShapeDtypeStructs."""
  picture = jax.ShapeDtypeStruct((1, network.size, network.size, 3), jnp.float32)
  return initializers.shapes(network, picture)["params"]


def rules(params: keys.Params) -> list[keys.Rule]:
  """Returns one rule per parameter of a `ClipImage`, or of their shapes."""
  blocks = {name: p for name, p in params.items() if name.startswith("block_")}
  # Both towers are made of the same blocks, under the same names.
  found = [
    rule._replace(source=_ROOT + rule.source.removeprefix(_TEXT_ROOT))
    for rule in clip_text.rules(blocks)
  ]
  rest = keys.flatten({k: v for k, v in params.items() if k not in blocks})
  return found + [keys.Rule(_SINGLE[p][0], p, _SINGLE[p][1]) for p in rest]


def hugging_face_names(state: keys.State) -> dict[str, np.ndarray]:
  """Renames OpenAI's names and those without `vision_model.`; leaves others alone."""
  renamed: dict[str, np.ndarray] = {}
  for name, value in state.items():
    if name.startswith(_OPENAI_ROOT):
      renamed.update(_from_openai(name.removeprefix(_OPENAI_ROOT), value))
    elif name.startswith(_BARE):
      renamed[_ROOT + name] = value
    else:
      renamed[name] = value
  return renamed


def _from_openai(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
  if name in _OPENAI:
    return {_OPENAI[name]: value}
  if name == "proj":
    return {PROJECTION: value.T}
  if not name.startswith("transformer."):
    return {_OPENAI_ROOT + name: value}  # which is then reported as unused
  blocks = clip_text.hugging_face_names({name: value})
  return {_ROOT + k.removeprefix(_TEXT_ROOT): v for k, v in blocks.items()}


def is_unused(name: str) -> bool:
  """Whether a name belongs to the rest of CLIP."""
  return name in IGNORED or name.startswith(OF_TEXT)


def to_params(state: keys.State, network: clip_image.ClipImage) -> dict[str, Any]:
  """Renames a state dict to the parameters of `network`, float32.

  Args:
    state: {name: array}, the names above or OpenAI's, and nothing of the text tower.
    network: whose widths and layers the state must have.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, in
      Hugging Face's names, or that are not finite.
  """
  expected = shapes(network)
  state = hugging_face_names(state)
  params = keys.to_params(state, rules(expected), expected, IGNORED)
  flat = {path: v.astype(np.float32) for path, v in keys.flatten(params).items()}
  bad = ["/".join(p) for p, v in flat.items() if not np.isfinite(v).all()]
  if bad:
    raise WeightsError(f"these are no weights of CLIP: {', '.join(bad)} not finite")
  return keys.nest(flat)


def to_state(params: keys.Params) -> dict[str, np.ndarray]:
  """The inverse of `to_params`, in Hugging Face's names."""
  return keys.to_state(params, rules(params))


def load(
  path: str | pathlib.Path, network: clip_image.ClipImage
) -> dict[str, Any]:
  """Reads the parameters of `network` from a safetensors file.

  Raises:
    WeightsError: one line that begins with the file's name.
  """
  if not pathlib.Path(path).expanduser().is_file():
    raise WeightsError(
      f"{path} does not exist or is no file; CLIP's image tower is made once by python"
      " -m lamd_jax.tools.convert clip-image --source model.safetensors --network b32"
      " --out clip_image.safetensors, from a CLIP of OpenAI or OpenCLIP"
    )
  state = safetensors_file.read(path)
  try:
    return to_params(state, network)
  except WeightsError as error:
    raise WeightsError(f"{path}: {error}") from error
