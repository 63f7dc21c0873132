# SPDX-License-Identifier: Apache-2.0
"""The weights of I3D under each of their published namings.

  piergiaj   Mixed_3b.b1a.{conv3d.weight,bn.{weight,bias,running_mean,running_var}},
             logits.conv3d.{weight,bias}; the layout of what we write
  hassony2   mixed_3b.branch_1.0.{conv3d,batch3d}..., conv3d_0c_1x1.conv3d...
  sonnet     RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0a_1x1/{conv_3d/w,
             batch_norm/{beta,moving_mean,moving_variance}}, without a scale

Two networks share these names and are not the same: TF-Hub's, which FVD means, and the
original release's. Their scores do not compare.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import i3d
from lamd_jax.nn import initializers

FILE_NAME = "i3d_kinetics400.safetensors"
NAMINGS = ("piergiaj", "hassony2", "sonnet")

_ROOT = "RGB/inception_i3d/"
_LEAVES = {
  "piergiaj": {
    "kernel": "conv3d.weight", "scale": "bn.weight", "bias": "bn.bias",
    "mean": "bn.running_mean", "var": "bn.running_var",
  },
  "hassony2": {
    "kernel": "conv3d.weight", "scale": "batch3d.weight", "bias": "batch3d.bias",
    "mean": "batch3d.running_mean", "var": "batch3d.running_var",
  },
  "sonnet": {
    "kernel": "conv_3d/w", "bias": "batch_norm/beta",
    "mean": "batch_norm/moving_mean", "var": "batch_norm/moving_variance",
  },
}  # fmt: skip
_LOGITS = {
  "piergiaj": "logits.conv3d.{}",
  "hassony2": "conv3d_0c_1x1.conv3d.{}",
  "sonnet": _ROOT + "Logits/Conv3d_0c_1x1/conv_3d/{}",
}
_LOGITS_LEAVES = {
  "logits_kernel": {"sonnet": "w", "torch": "weight"},
  "logits_bias": {"sonnet": "b", "torch": "bias"},
}
_BRANCHES = {
  "b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0",
  "b2b": "branch_2.1", "b3b": "branch_3.1",
}  # fmt: skip
_SONNET_BRANCHES = {
  "b0": "Branch_0/Conv3d_0a_1x1", "b1a": "Branch_1/Conv3d_0a_1x1",
  "b1b": "Branch_1/Conv3d_0b_3x3", "b2a": "Branch_2/Conv3d_0a_1x1",
  "b2b": "Branch_2/Conv3d_0b_3x3", "b3b": "Branch_3/Conv3d_0b_1x1",
}  # fmt: skip
# The one place where the source of the original misnames the second convolution.
_SONNET_SLIP = {("Mixed_5b", "b2b"): "Branch_2/Conv3d_0a_3x3"}


@functools.cache
def shapes(network: i3d.I3D) -> dict[str, Any]:
  """Returns the parameters of `network` as nested ShapeDtypeStructs, float32."""
  edge = 32 * network.pool
  clip = jax.ShapeDtypeStruct((1, i3d.MIN_FRAMES, edge, edge, 3), jnp.float32)
  return initializers.shapes(network, clip)["params"]


def rules(params: keys.Params, naming: str) -> list[keys.Rule]:
  """Returns one rule per parameter of an `I3D` (or of their shapes).

  Args:
    params: the parameters; for "sonnet" without the scales, which it lacks.
    naming: one of NAMINGS.
  """
  return [_rule(path, naming) for path in keys.flatten(params)]


def _rule(path: tuple[str, ...], naming: str) -> keys.Rule:
  sonnet = naming == "sonnet"
  if path[0] in _LOGITS_LEAVES:
    leaf = _LOGITS_LEAVES[path[0]]["sonnet" if sonnet else "torch"]
    layout = "copy" if sonnet or path[0] == "logits_bias" else "conv"
    return keys.Rule(_LOGITS[naming].format(leaf), path, layout)
  stage, *branch, leaf = path
  layout = "conv" if leaf == "kernel" and not sonnet else "copy"
  name = _LEAVES[naming][leaf]
  if sonnet:
    inner = [_SONNET_SLIP.get((stage, b), _SONNET_BRANCHES[b]) for b in branch]
    return keys.Rule(_ROOT + "/".join((stage, *inner, name)), path, layout)
  if naming == "hassony2":
    stage, branch = stage.lower(), [_BRANCHES[b] for b in branch]
  return keys.Rule(".".join((stage, *branch, name)), path, layout)


def naming(state: keys.State) -> str:
  """Returns which of NAMINGS the names follow; "piergiaj" if none is recognised."""
  if any(name.startswith(_ROOT) for name in state):
    return "sonnet"
  return "hassony2" if any(".batch3d." in name for name in state) else "piergiaj"


def ignored(state: keys.State) -> list[str]:
  """Returns the counters that torch's batch norms keep, which inference needs not."""
  return [name for name in state if name.endswith("num_batches_tracked")]


def to_params(state: keys.State, network: i3d.I3D) -> dict[str, Any]:
  """Renames a state dict of any naming to the parameters of `network`, float32.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, in the
      file's own naming, or values that no trained network has.
  """
  state = {k: v for k, v in state.items() if k not in ignored(state)}
  expected, names = shapes(network), naming(state)
  ones = {}
  if names == "sonnet":
    state = {k.removesuffix(":0"): v for k, v in state.items()}
    flat = keys.flatten(expected)
    ones = {p: np.ones(v.shape, np.float32) for p, v in flat.items() if p[-1] == "scale"}
    expected = keys.nest({p: v for p, v in flat.items() if p not in ones})
  params = keys.to_params(state, rules(expected, names), expected)
  flat = {path: v.astype(np.float32) for path, v in keys.flatten(params).items()}
  bad = [f"{'/'.join(p)} is not finite" for p, v in flat.items() if not _finite(v)]
  low = [p for p, v in flat.items() if p[-1] == "var" and v.min() < 0]
  bad += [f"{'/'.join(p)} is a negative variance" for p in low]
  if bad:
    raise WeightsError(f"these are no weights of I3D: {'; '.join(bad)}")
  return keys.nest(flat | ones)


def _finite(array: np.ndarray) -> bool:
  return bool(np.isfinite(array).all())


def to_state(params: keys.Params, names: str = "piergiaj") -> dict[str, np.ndarray]:
  """The inverse of `to_params`, in the given naming; sonnet loses the scales.

  Raises:
    WeightsError: a scale is not 1 where the naming has no place for it.
  """
  if names == "sonnet":
    flat = keys.flatten(params)
    odd = [p for p, v in flat.items() if p[-1] == "scale" and not (v == 1).all()]
    if odd:
      raise WeightsError(f"{'/'.join(odd[0])} is not 1; sonnet's files hold no scale")
    params = keys.nest({p: v for p, v in flat.items() if p[-1] != "scale"})
  return keys.to_state(params, rules(params, names))


def load(path: str | pathlib.Path, network: i3d.I3D) -> dict[str, Any]:
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
  named = f"{path} does not exist or is no file" if str(path) else "no weights are named"
  return (
    f"{named}; I3D's are made once by python -m lamd_jax.tools.convert i3d"
    f" --source i3d_pretrained_400.pt --out {FILE_NAME}, from the file that TATS and"
    " VideoGPT link to (50 MB)"
  )
