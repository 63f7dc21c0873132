# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1's UNet under each of its published naming schemes.

  ldm        latent diffusion's own: input_blocks.4.0.skip_connection.weight
  diffusers  down_blocks.1.resnets.0.conv_shortcut.weight

Latent diffusion numbers blocks through all levels, diffusers within each. Whole models
hold the UNet below `model.diffusion_model.` or `unet.`, and its moving average below
`model_ema.` in names without dots.

The published network is the image model within a network of `systems.gen1_blocks`:
temporal layers (paths with `temporal_*`) are in no file and keep what they have, and
input channels after those of the latent start at zero.
"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange.lvdm_checkpoint import ema_name

PREFIXES = ("model.diffusion_model.", "unet.")
_WRAPPER = "module."  # of PyTorch's DataParallel, around any of them
_EMA = "model_ema."
_EMA_STATE = (f"{_EMA}decay", f"{_EMA}num_updates")
# The rest of a whole model, and what its training kept.
NOT_USED = (
  "model.", _EMA, "first_stage_model.", "cond_stage_model.", "vae.", "text_encoder.",
  "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_",
)  # fmt: skip
_DIFFUSERS_ONLY = ("conv_in.", "down_blocks.", "mid_block.", "up_blocks.")

_BIAS = {"bias": ("bias", "copy")}
_NORM = {"scale": ("weight", "copy"), **_BIAS}
_DENSE = {"kernel": ("weight", "dense"), **_BIAS}
_CONV = {"kernel": ("weight", "conv2d"), **_BIAS}
_POINTWISE = {"kernel": ("weight", "conv2d_as_dense"), **_BIAS}

# Ours -> (latent diffusion's, diffusers', leaves). Parts of a block, by kind of block.
_RES = {
  "norm_0": ("in_layers.0", "norm1", _NORM),
  "conv_0": ("in_layers.2", "conv1", _CONV),
  "embedding": ("emb_layers.1", "time_emb_proj", _DENSE),
  "norm_1": ("out_layers.0", "norm2", _NORM),
  "conv_1": ("out_layers.3", "conv2", _CONV),
  "skip": ("skip_connection", "conv_shortcut", _POINTWISE),
}
_BLOCK = "transformer_blocks.0"
_TRANSFORMER = {
  f"spatial/{ours}": (theirs, theirs, leaves)
  for ours, theirs, leaves in (
    ("norm", "norm", _NORM),
    ("in", "proj_in", _POINTWISE),
    ("self_attention_norm", f"{_BLOCK}.norm1", _NORM),
    *(
      (f"{ours}/{part}", f"{_BLOCK}.{theirs}.to_{to}", _DENSE)
      for ours, theirs in (("self_attention", "attn1"), ("cross_attention", "attn2"))
      for part, to in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "out.0"))
    ),
    ("cross_attention_norm", f"{_BLOCK}.norm2", _NORM),
    ("feed_forward_norm", f"{_BLOCK}.norm3", _NORM),
    ("feed_forward/in", f"{_BLOCK}.ff.net.0.proj", _DENSE),
    ("feed_forward/out", f"{_BLOCK}.ff.net.2", _DENSE),
    ("out", "proj_out", _POINTWISE),
  )
}
_DOWN = {"conv": ("op", "conv", _CONV)}
_UP = {"conv": ("conv", "conv", _CONV)}
_SINGLE = {
  ("time_embedding", "dense_0"): ("time_embed.0", "time_embedding.linear_1", _DENSE),
  ("time_embedding", "dense_1"): ("time_embed.2", "time_embedding.linear_2", _DENSE),
  ("in_conv",): ("input_blocks.0.0", "conv_in", _CONV),
  ("out_norm",): ("out.0", "conv_norm_out", _NORM),
  ("out_conv",): ("out.2", "conv_out", _CONV),
}
_MIDDLE = {"res_0": (0, "resnets.0"), "attention": (1, "attentions.0"),
           "res_1": (2, "resnets.1")}  # fmt: skip
_IN = ("in_conv", "kernel")
_SCHEMES = {"ldm": 0, "diffusers": 1}


def unwrap(state: keys.State) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns the UNet's tensors by their own names, and the names left aside.

  Raises:
    WeightsError: a tensor stands there with and without a prefix.
  """
  return keys.unwrap(state, PREFIXES, _WRAPPER, NOT_USED)


def averages(
  state: keys.State, expected: keys.Params
) -> tuple[dict[str, np.ndarray], list[str]]:
  """As `unwrap`, of the moving average that training files carry, in ldm's names.

  Args:
    state: of a whole model.
    expected: the network's parameters, or their shapes: dots cannot be put back
      without knowing the names.

  Raises:
    WeightsError: the file carries no average.
  """
  inner = {name.removeprefix(_WRAPPER): value for name, value in state.items()}
  dotted = {ema_name(rule.source): rule.source for rule in rules(expected, "ldm")}
  found = {
    dotted.get(name, name): value
    for name, value in inner.items()
    if name.startswith(_EMA) and name not in _EMA_STATE
  }
  if not found:
    raise WeightsError("holds no moving average (model_ema.*); take the raw weights")
  return found, [n for n in inner if n in _EMA_STATE or not n.startswith(_EMA)]


def naming(state: keys.State) -> str:
  """Returns which scheme the names follow: ldm | diffusers."""
  newer = any(name.startswith(_DIFFUSERS_ONLY) for name in state)
  return "diffusers" if newer else "ldm"


def spatial(params: keys.Params) -> dict[tuple[str, ...], Any]:
  """Returns the image model's parameters by path: all without a `temporal_*` part."""
  temporal = lambda path: any(part.startswith("temporal_") for part in path)
  return {p: v for p, v in keys.flatten(params).items() if not temporal(p)}


def rules(params: keys.Params, names: str) -> list[keys.Rule]:
  """Returns one rule for each parameter that is not temporal.

  Args:
    params: of a network of `systems.gen1_blocks`, or their shapes.
    names: ldm | diffusers.

  Raises:
    WeightsError: names the parameters that Stable Diffusion has no place for.
  """
  found, strange = [], []
  for path in spatial(params):
    try:
      found.append(_rule(path, params, _SCHEMES[names]))
    except (KeyError, ValueError):
      strange.append("/".join(path))
  if strange:
    raise WeightsError(
      f"Stable Diffusion 1's UNet has no place for {', '.join(strange)}"
    )
  return found


def to_params(state: keys.State, initial: keys.Params) -> dict[str, Any]:
  """Renames a state dict of any scheme, unwrapped, to parameters in float32.

  Args:
    state: {name: array}. Its first convolution reads as many channels as ours, or
      those of a latent alone; the kernel for channels after these is then zero.
    initial: the network's parameters as they start. Of temporal ones the values are
      returned, of all others only the shapes are read.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, in the
      file's own scheme, or what is not finite.
  """
  expected = spatial(initial)
  of = rules(initial, naming(state))
  wanted = expected[_IN].shape
  entry = state.get(next(rule.source for rule in of if rule.path == _IN))
  latent = expected[("out_conv", "bias")].shape[0]
  if entry is not None and entry.ndim == 4 and entry.shape[1] == latent:
    expected[_IN] = np.broadcast_to(np.float32(0), (*wanted[:3], latent, wanted[4]))
  flat = keys.flatten(keys.to_params(state, of, keys.nest(expected)))
  flat = {path: np.require(value, np.float32, "A") for path, value in flat.items()}
  bad = [rule.source for rule in of if not np.isfinite(flat[rule.path]).all()]
  if bad:
    raise WeightsError(f"these are no weights of a UNet: {', '.join(bad)} not finite")
  more = wanted[3] - flat[_IN].shape[3]
  flat[_IN] = np.pad(flat[_IN], [(0, 0)] * 3 + [(0, more), (0, 0)])
  # In the order of `initial`, with its temporal parameters.
  return keys.nest({p: flat.get(p, v) for p, v in keys.flatten(initial).items()})


def to_state(params: keys.Params, names: str) -> dict[str, np.ndarray]:
  """The inverse of `to_params`, in the given scheme; leaves temporal layers out.

  The first convolution keeps all the channels that it reads.
  """
  return keys.to_state(keys.nest(spatial(params)), rules(params, names))


def load(path: str | pathlib.Path, initial: keys.Params) -> dict[str, Any]:
  """Reads a safetensors file of either scheme, of the UNet or a whole model.

  Args:
    path: the file.
    initial: as of `to_params`.

  Raises:
    WeightsError: one line that begins with the file's name.
  """
  if not pathlib.Path(path).expanduser().is_file():
    raise WeightsError(
      f"{path} does not exist or is no file; Stable Diffusion 1's UNet is made once by"
      " python -m lamd_jax.tools.convert sd-unet FILE --out sd_unet.safetensors, from"
      " v1-5-pruned.ckpt or unet/diffusion_pytorch_model.safetensors"
    )
  try:
    state, _ = unwrap(safetensors_file.read(path))
    return to_params(state, initial)
  except WeightsError as error:
    message = str(error).removeprefix(f"{path}: ")
    raise WeightsError(f"{path}: {message}") from error


def _rule(path: tuple[str, ...], params: keys.Params, scheme: int) -> keys.Rule:
  *parents, leaf = path
  if tuple(parents) in _SINGLE:
    *parts, leaves = _SINGLE[tuple(parents)]
    prefix = ""
  else:
    block, *inner = parents
    prefixes, table = _block(block, params)
    prefix = f"{prefixes[scheme]}."
    *parts, leaves = table["/".join(inner)]
  name, layout = leaves[leaf]
  return keys.Rule(f"{prefix}{parts[scheme]}.{name}", path, layout)


def _block(name: str, params: keys.Params) -> tuple[tuple[str, str], Mapping]:
  """Returns where a block lies in each scheme, and its table of parts."""
  side, _, rest = name.partition("_")
  if side == "middle":
    place, inner = _MIDDLE[rest]
    table = _TRANSFORMER if rest == "attention" else _RES
    return (f"middle_block.{place}", f"mid_block.{inner}"), table
  number, _, kind = rest.partition("_")
  # Blocks a level: going up one for each skip, going down the resampling counts.
  levels = 1 + sum(n.startswith("down_") and n.endswith("_resample") for n in params)
  up_blocks = sum(n.startswith("up_") and n.endswith("_res") for n in params)
  level, index = divmod(int(number) - (side == "down"), up_blocks // levels)
  # In latent diffusion what follows a residual block is numbered by its place.
  place, inner, table = {
    "res": (0, f"resnets.{index}", _RES),
    "attention": (1, f"attentions.{index}", _TRANSFORMER),
    "resample": (
      0 if side == "down" else 1 + (f"up_{number}_attention" in params),
      f"{side}samplers.0",
      {"down": _DOWN, "up": _UP}[side],
    ),
  }[kind]
  blocks = {"down": "input_blocks", "up": "output_blocks"}[side]
  return (f"{blocks}.{number}.{place}", f"{side}_blocks.{level}.{inner}"), table
