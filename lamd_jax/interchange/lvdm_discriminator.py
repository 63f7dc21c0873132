# SPDX-License-Identifier: Apache-2.0
"""Names of LVDM's critic in released autoencoder checkpoints (`loss.discriminator.*`).

`main` is a flat list: convolutions and, behind all but the first and last, batch norms.
"""

from __future__ import annotations

from collections.abc import Mapping

from lamd_jax.interchange import keys

_CONVOLUTIONS = {"conv_0": 0, "conv_1": 2, "conv_2": 5, "conv_3": 8, "conv_out": 11}
_NORMS = {"norm_1": 3, "norm_2": 6, "norm_3": 9}
_PARTS = {
  ("params", "scale"): "weight",
  ("params", "bias"): "bias",
  ("batch_stats", "mean"): "running_mean",
  ("batch_stats", "var"): "running_var",
}


def rules(variables: Mapping[str, keys.Params]) -> list[keys.Rule]:
  """Returns one rule per array of a `FrameDiscriminator`'s collections.

  Args:
    variables: {"params": ..., "batch_stats": ...} or their shapes.
  """
  found = []
  for path in keys.flatten(variables):
    collection, _, layer, leaf = path
    if layer in _CONVOLUTIONS:
      index = _CONVOLUTIONS[layer]
      name, layout = ("weight", "conv2d") if leaf == "kernel" else ("bias", "copy")
    else:
      index, name, layout = _NORMS[layer], _PARTS[collection, leaf], "copy"
    found.append(keys.Rule(f"main.{index}.{name}", path, layout))
  return found
