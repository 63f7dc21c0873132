# SPDX-License-Identifier: Apache-2.0
"""Names of LVDM's autoencoders in released checkpoints (`first_stage_model.*`).

The 3-D one of the short models, and the per-frame one of text-to-video, whose names
are those of latent diffusion (Stable Diffusion's original files).
"""

from __future__ import annotations

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys

_NORM = {"scale": ("weight", "copy"), "bias": ("bias", "copy")}


def _kernel(layout: str) -> dict[str, tuple[str, str]]:
  return {"kernel": ("weight", layout), "bias": ("bias", "copy")}


def video_rules(params: keys.Params) -> list[keys.Rule]:
  """Returns one rule per parameter of a `VideoAutoencoder` (or of their shapes)."""
  return _rules(params, _video_layer)


def image_rules(params: keys.Params) -> list[keys.Rule]:
  """Returns one rule per parameter of an `ImageAutoencoder` (or of their shapes)."""
  return _rules(params, _image_layer)


def _rules(params: keys.Params, layer_of) -> list[keys.Rule]:
  found, strange = [], []
  for path in keys.flatten(params):
    try:
      source, leaves = layer_of(path[:-1])
      name, layout = leaves[path[-1]]
    except KeyError:
      strange.append("/".join(path))
    else:
      found.append(keys.Rule(f"{source}.{name}", path, layout))
  if strange:
    raise WeightsError(f"released autoencoders have no place for {', '.join(strange)}")
  return found


_VIDEO = {
  ("encoder", "conv_in"): ("encoder.conv_first.conv", _kernel("conv")),
  ("encoder", "norm_out"): ("encoder.final_block.0", _NORM),
  ("encoder", "conv_out"): ("encoder.final_block.2.conv", _kernel("conv")),
  ("quant_conv",): ("quant_conv.conv", _kernel("conv3d_as_dense")),
  ("post_quant_conv",): ("post_quant_conv.conv", _kernel("conv3d_as_dense")),
  ("conv_out",): ("decoder.conv_out.conv", _kernel("conv")),
}
_VIDEO_RES = {
  "norm_0": ("norm1", _NORM),
  "conv_0": ("conv1.conv", _kernel("conv")),
  "norm_1": ("norm2", _NORM),
  "conv_1": ("conv2.conv", _kernel("conv")),
}


def _video_layer(path: tuple[str, ...]):
  """Returns a layer's name in the release, and the table of its leaves."""
  if path in _VIDEO:
    return _VIDEO[path]
  side, block, *inner = path
  kind, level, *which = block.split("_")
  prefix = f"{side}.conv_blocks.{level}"
  if kind == "down":
    return f"{prefix}.down.conv", _kernel("conv")
  if kind == "up":
    return f"{prefix}.up.convt", _kernel("conv_transpose")
  part, leaves = _VIDEO_RES["/".join(inner)]
  res = f"res{int(which[0]) + 1}" if which else "res"
  return f"{prefix}.{res}.{part}", leaves


_CONV = _kernel("conv2d")
_POINTWISE = _kernel("conv2d_as_dense")
_IMAGE = {  # our path: name in the release
  ("quant_conv",): ("quant_conv", _POINTWISE),
  ("post_quant_conv",): ("post_quant_conv", _POINTWISE),
  ("conv_out",): ("decoder.conv_out", _CONV),
}
_IMAGE_ENDS = {"conv_in": _CONV, "norm_out": _NORM, "conv_out": _CONV}
_IMAGE_PARTS = {
  "norm_0": ("norm1", _NORM),
  "conv_0": ("conv1", _CONV),
  "norm_1": ("norm2", _NORM),
  "conv_1": ("conv2", _CONV),
  "skip": ("nin_shortcut", _POINTWISE),
  "norm": ("norm", _NORM),
  "q": ("q", _POINTWISE),
  "k": ("k", _POINTWISE),
  "v": ("v", _POINTWISE),
  "out": ("proj_out", _POINTWISE),
}
_MIDDLE = {"res_0": "block_1", "attention": "attn_1", "res_1": "block_2"}


def _image_layer(path: tuple[str, ...]):
  if path in _IMAGE:
    return _IMAGE[path]
  side, block, *inner = path
  if block in _IMAGE_ENDS:
    return f"{side}.{block}", _IMAGE_ENDS[block]
  kind, *numbers = block.split("_")
  if kind == "resample":
    # Named by the level that it leaves.
    half = "down.{}.downsample" if side == "encoder" else "up.{}.upsample"
    return f"{side}.{half.format(numbers[0])}.conv", _CONV
  part, leaves = _IMAGE_PARTS["/".join(inner)]
  if kind == "middle":
    return f"{side}.mid.{_MIDDLE['_'.join(numbers)]}.{part}", leaves
  level, index = numbers[0], numbers[1]
  half = "down" if side == "encoder" else "up"
  return f"{side}.{half}.{level}.block.{index}.{part}", leaves
