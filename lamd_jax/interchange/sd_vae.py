# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion's autoencoder under each of its published naming schemes.

  ldm        latent diffusion's own: encoder.down.1.block.0.nin_shortcut.weight
  diffusers  encoder.down_blocks.1.resnets.0.conv_shortcut.weight, attention as Linear
  older      older files of diffusers: attention is query, key, value, proj_attn

The two halves count differently: diffusers numbers the decoder's levels from its
input, latent diffusion from its output. Whole models hold the autoencoder below
`first_stage_model.` or `vae.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder

PREFIXES = ("first_stage_model.", "vae.")
_WRAPPER = "module."  # of PyTorch's DataParallel, around any of them
# The rest of a whole model, or of an autoencoder's training.
NOT_USED = (
  "model.", "model_ema.", "cond_stage_model.", "unet.", "text_encoder.", "loss.",
  "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_",
)  # fmt: skip

_ATTENTION = {
  "diffusers": {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
  "older": {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"},
}
_MIDDLE = {
  "block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1",
}  # fmt: skip


def unwrap(state: keys.State) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns the autoencoder's tensors by their own names, and the names left aside.

  Raises:
    WeightsError: a tensor stands there with and without a prefix.
  """
  return keys.unwrap(state, PREFIXES, _WRAPPER, NOT_USED)


def naming(state: keys.State) -> str:
  """Returns which scheme the names follow: ldm | diffusers | older."""
  if not any(".mid_block." in name or "_blocks." in name for name in state):
    return "ldm"
  old = any(name.endswith("attentions.0.query.weight") for name in state)
  return "older" if old else "diffusers"


def rules(params: keys.Params, names: str) -> list[keys.Rule]:
  """Returns one rule per parameter of an `ImageAutoencoder` (or of their shapes).

  Args:
    params: the parameters.
    names: ldm | diffusers | older.
  """
  of = lvdm_autoencoder.image_rules(params)
  if names == "ldm":
    return of
  levels = 1 + max(
    int(rule.source.split(".")[2])
    for rule in of
    if rule.source.startswith("encoder.down.")
  )
  return [_diffusers(rule, levels, _ATTENTION[names]) for rule in of]


def _diffusers(rule: keys.Rule, levels: int, attention: Mapping[str, str]) -> keys.Rule:
  side, *rest, leaf = rule.source.split(".")
  if rest and rest[0] in ("down", "up"):
    half, level, *inner = rest
    number = int(level) if half == "down" else levels - 1 - int(level)
    if inner[0] == "block":
      inner = ["resnets", inner[1], inner[2].replace("nin_", "conv_")]
    else:  # downsample.conv, upsample.conv
      inner = [f"{half}samplers.0", "conv"]
    rest = [f"{half}_blocks", str(number), *inner]
  elif rest and rest[0] == "mid":
    _, block, part = rest
    layout = rule.layout
    if part in attention:
      # Linear there, a 1x1 convolution in latent diffusion.
      layout = "dense" if leaf == "weight" else layout
      part = attention[part]
    elif part == "norm":
      part = "group_norm"
    name = ".".join((side, "mid_block", _MIDDLE[block], part, leaf))
    return keys.Rule(name, rule.path, layout)
  elif rest == ["norm_out"]:
    rest = ["conv_norm_out"]
  return rule._replace(source=".".join((side, *rest, leaf)))


def to_params(state: keys.State, expected: keys.Params) -> dict[str, Any]:
  """Renames a state dict of any scheme, unwrapped, to parameters in float32.

  Args:
    state: {name: array}.
    expected: an `ImageAutoencoder`'s parameters, or their shapes.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, in the
      file's own scheme.
  """
  params = keys.to_params(state, rules(expected, naming(state)), expected)
  flat = keys.flatten(params)
  return keys.nest({path: np.require(v, np.float32, "A") for path, v in flat.items()})


def to_state(params: keys.Params, names: str = "ldm") -> dict[str, np.ndarray]:
  """The inverse of `to_params`, in the given scheme."""
  return keys.to_state(params, rules(params, names))
