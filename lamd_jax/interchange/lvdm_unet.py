# SPDX-License-Identifier: Apache-2.0
"""The map between LVDM's released UNets and ours, read off our parameters' paths."""

from __future__ import annotations

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys

_BIAS = {"bias": ("bias", "copy")}
_NORM = {"scale": ("weight", "copy"), **_BIAS}
_DENSE = {"kernel": ("weight", "dense"), **_BIAS}
_CONV = {"kernel": ("weight", "conv"), **_BIAS}
_CONV1D = {"kernel": ("weight", "conv1d_as_dense"), **_BIAS}
_CONV3D = {"kernel": ("weight", "conv3d_as_dense"), **_BIAS}

# Ours -> (theirs, leaves). Parts of a block, by kind of block.
_RES = {
  "norm_0": ("in_layers.0", _NORM),
  "conv_0": ("in_layers.2", _CONV),
  "embedding": ("emb_layers.1", _DENSE),
  "norm_1": ("out_layers.0", _NORM),
  "conv_1": ("out_layers.3", _CONV),
  "skip": ("skip_connection", _CONV3D),
}
_TABLES = {
  "key_positions": ("relative_position_k.embeddings_table", "copy"),
  "value_positions": ("relative_position_v.embeddings_table", "copy"),
}
_ATTENTION = {
  "spatial_attention/norm": ("norm_s", _NORM),
  "spatial_attention/qkv": ("qkv_s", _CONV1D),
  "spatial_attention/out": ("proj_out_s", _CONV1D),
  "temporal_attention/norm": ("norm_t", _NORM),
  "temporal_attention/qkv": ("qkv_t", _CONV1D),
  "temporal_attention/out": ("proj_out_t", _CONV1D),
  "temporal_attention": ("", _TABLES),
}
_BLOCK = "transformer_blocks.0"
_TRANSFORMER = {
  "norm": ("norm", _NORM),
  "in": ("proj_in", _CONV3D),
  "out": ("proj_out", _CONV3D),
  "feed_forward_norm": (f"{_BLOCK}.norm3", _NORM),
  "feed_forward/in": (f"{_BLOCK}.ff.net.0.proj", _DENSE),
  "feed_forward/out": (f"{_BLOCK}.ff.net.2", _DENSE),
}
for _ours, _theirs, _norm in (
  ("spatial_attention", "attn1", "norm1"),
  ("cross_attention", "attn2", "norm2"),
  ("temporal_attention_0", "attn1_tmp", "norm4"),
  ("temporal_attention_1", "attn2_tmp", "norm5"),
):
  _TRANSFORMER[f"{_ours}_norm"] = (f"{_BLOCK}.{_norm}", _NORM)
  _TRANSFORMER[_ours] = (f"{_BLOCK}.{_theirs}", _TABLES)
  for _part, _to in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "out.0")):
    _TRANSFORMER[f"{_ours}/{_part}"] = (f"{_BLOCK}.{_theirs}.to_{_to}", _DENSE)

_SINGLE = {
  ("time_embedding", "dense_0"): ("time_embed.0", _DENSE),
  ("time_embedding", "dense_1"): ("time_embed.2", _DENSE),
  ("noise_level_embedding",): ("label_emb", {"table": ("weight", "copy")}),
  ("in_conv",): ("input_blocks.0.0", _CONV),
  ("out_norm",): ("out.0", _NORM),
  ("out_conv",): ("out.2", _CONV),
}
_MIDDLE = {"res_0": 0, "attention": 1, "res_1": 2}


def rules(params: keys.Params) -> list[keys.Rule]:
  """Returns one rule for each parameter.

  Args:
    params: of a `networks.unet.UNet` with LVDM's blocks, or their shapes.

  Raises:
    WeightsError: names the parameters that released UNets have no place for.
  """
  found, strange = [], []
  for path in keys.flatten(params):
    try:
      found.append(_rule(path, params))
    except KeyError:
      strange.append("/".join(path))
  if strange:
    raise WeightsError(f"released LVDM UNets have no place for {', '.join(strange)}")
  return found


def _rule(path: tuple[str, ...], params: keys.Params) -> keys.Rule:
  *parents, leaf = path
  if tuple(parents) in _SINGLE:
    source, leaves = _SINGLE[tuple(parents)]
  else:
    block, *inner = parents
    prefix, parts = _block(block, params)
    part, leaves = parts["/".join(inner)]
    source = f"{prefix}.{part}" if part else prefix
  name, layout = leaves[leaf]
  return keys.Rule(f"{source}.{name}", path, layout)


def _block(name: str, params: keys.Params):
  """Returns where a block's parameters lie in the release, and its table of parts."""
  side, _, rest = name.partition("_")
  if side == "middle":
    prefix = f"middle_block.{_MIDDLE[rest]}"
    kind = rest.partition("_")[0]
  else:
    number, _, kind = rest.partition("_")
    blocks = {"down": "input_blocks", "up": "output_blocks"}[side]
    # What follows a residual block is numbered by its place, so an upsampler is 1 or 2.
    place = {
      "res": 0,
      "attention": 1,
      "resample": 0 if side == "down" else 1 + (f"up_{number}_attention" in params),
    }[kind]
    prefix = f"{blocks}.{number}.{place}"
  if kind == "attention":
    return prefix, _TRANSFORMER if "in" in params[name] else _ATTENTION
  if kind == "resample" and "conv" in params[name]:
    return prefix, {"conv": ("op" if side == "down" else "conv", _CONV)}
  return prefix, _RES
