# SPDX-License-Identifier: Apache-2.0
"""The weights of DPT-Large under both of their published namings.

  transformers  dpt.embeddings.{cls_token,position_embeddings,
                patch_embeddings.projection.weight}, dpt.encoder.layer.N. ...,
                neck. ..., head.head.{0,2,4}; the layout of what we write
  midas         pretrained.model.{cls_token,pos_embed,patch_embed.proj.weight},
                pretrained.model.blocks.N. ... with a fused attn.qkv,
                pretrained.act_postprocessK. ..., scratch. ...

MiDaS numbers maps from the finest, from 1; transformers numbers its fusion layers from
the deepest, from 0. MiDaS's fused projection is read and written as three, under names
of ours: attn.q, attn.k, attn.v.
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
from lamd_jax.networks import dpt
from lamd_jax.nn import initializers

FILE_NAME = "dpt_large.safetensors"
# The transformer's classifier of ImageNet.
IGNORED = ("pretrained.model.head.weight", "pretrained.model.head.bias")

_MIDAS_ROOTS = ("pretrained.", "scratch.")
_FUSED = ".attn.qkv."
_DEEPEST = len(dpt.DPT_LARGE.taps) - 1  # map, counted from the finest, from 0
# The unit that would take in a coarser map is in no output.
_UNUSED = (f"fusion_{_DEEPEST}", "unit_1")
_SINGLE = {
  "transformers": {
    "patch_kernel": "dpt.embeddings.patch_embeddings.projection.weight",
    "patch_bias": "dpt.embeddings.patch_embeddings.projection.bias",
    "class_token": "dpt.embeddings.cls_token",
    "positions": "dpt.embeddings.position_embeddings",
  },
  "midas": {
    "patch_kernel": "pretrained.model.patch_embed.proj.weight",
    "patch_bias": "pretrained.model.patch_embed.proj.bias",
    "class_token": "pretrained.model.cls_token",
    "positions": "pretrained.model.pos_embed",
  },
}
_BLOCK = {
  "transformers": {
    "attention_norm": "layernorm_before", "q": "attention.attention.query",
    "k": "attention.attention.key", "v": "attention.attention.value",
    "out": "attention.output.dense", "dense_norm": "layernorm_after",
    "dense_0": "intermediate.dense", "dense_1": "output.dense",
  },
  "midas": {
    "attention_norm": "norm1", "q": "attn.q", "k": "attn.k", "v": "attn.v",
    "out": "attn.proj", "dense_norm": "norm2", "dense_0": "mlp.fc1",
    "dense_1": "mlp.fc2",
  },
}  # fmt: skip
# By the first part of our path: {n} is our number, {h} twice as much; {m} is MiDaS's
# of a map, and transformers' of a fusion layer.
_MODULES = {
  "transformers": {
    "block": "dpt.encoder.layer.{n}", "final_norm": "dpt.layernorm",
    "readout": "neck.reassemble_stage.readout_projects.{n}.0",
    "project": "neck.reassemble_stage.layers.{n}.projection",
    "resize": "neck.reassemble_stage.layers.{n}.resize", "narrow": "neck.convs.{n}",
    "fusion": "neck.fusion_stage.layers.{m}", "head": "head.head.{h}",
  },
  "midas": {
    "block": "pretrained.model.blocks.{n}", "final_norm": "pretrained.model.norm",
    "readout": "pretrained.act_postprocess{m}.0.project.0",
    "project": "pretrained.act_postprocess{m}.3",
    "resize": "pretrained.act_postprocess{m}.4", "narrow": "scratch.layer{m}_rn",
    "fusion": "scratch.refinenet{m}", "head": "scratch.output_conv.{h}",
  },
}  # fmt: skip
_FUSION = {
  "transformers": {
    "unit_1": "residual_layer1", "unit_2": "residual_layer2", "out": "projection",
    "conv_1": "convolution1", "conv_2": "convolution2",
  },
  "midas": {
    "unit_1": "resConfUnit1", "unit_2": "resConfUnit2", "out": "out_conv",
    "conv_1": "conv1", "conv_2": "conv2",
  },
}  # fmt: skip
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


@functools.cache
def shapes(network: dpt.Dpt) -> dict[str, Any]:
  """Returns the parameters of `network` as nested ShapeDtypeStructs."""
  picture = jax.ShapeDtypeStruct((1, network.size, network.size, 3), jnp.float32)
  return initializers.shapes(network, picture)["params"]


def rules(params: keys.Params, naming: str = "transformers") -> list[keys.Rule]:
  """Returns one rule per parameter of a `Dpt`, or of their shapes.

  Args:
    params: the parameters.
    naming: transformers, or midas with attn.q, attn.k and attn.v for attn.qkv.
  """
  return [
    keys.Rule(_source(path, naming), path, _layout(path, len(leaf.shape)))
    for path, leaf in keys.flatten(params).items()
  ]


def _source(path: tuple[str, ...], naming: str) -> str:
  if path[0] in _SINGLE[naming]:
    return _SINGLE[naming][path[0]]
  if path[0] == "final_norm":
    return f"{_MODULES[naming][path[0]]}.{_LEAVES[path[-1]]}"
  module, number = path[0].split("_")
  n = int(number)
  m = _DEEPEST - n if naming == "transformers" else n + 1
  root = _MODULES[naming][module].format(n=n, m=m, h=2 * n)
  parts = _BLOCK[naming] if module == "block" else _FUSION[naming]
  return ".".join((root, *(parts[p] for p in path[1:-1]), _LEAVES[path[-1]]))


def _layout(path: tuple[str, ...], rank: int) -> str:
  if path[-1] not in ("kernel", "patch_kernel"):
    return "copy"
  if rank != 2:
    return "conv2d" if rank == 5 else "copy"  # what is transposed lies as theirs does
  pointwise = path[0].startswith(("project_", "fusion_", "head_"))
  return "conv2d_as_dense" if pointwise else "dense"


def naming(state: keys.State) -> str:
  """Returns which naming the names follow: transformers or midas."""
  midas = any(name.startswith(_MIDAS_ROOTS) for name in state)
  return "midas" if midas else "transformers"


def absent(state: keys.State, network: dpt.Dpt) -> list[str]:
  """Returns the names that a file may lack, and this one does, in its own naming.

  The files of transformers leave out the one unit that takes no part in the output.
  """
  found = rules(shapes(network), naming(state))
  unused = [rule.source for rule in found if rule.path[:2] == _UNUSED]
  # All of it or nothing: a file that has lost a part of it is damaged.
  return [] if any(name in state for name in unused) else unused


def to_params(state: keys.State, network: dpt.Dpt) -> dict[str, Any]:
  """Renames a state dict of either naming to the parameters of `network`, float32.

  What `absent` lists becomes zero.

  Args:
    state: {name: array}.
    network: whose widths and layers the state must have.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, in the
      file's own naming, or that are not finite.
  """
  names, expected = naming(state), shapes(network)
  mapped = rules(expected, names)
  theirs = keys.source_shapes(expected, mapped)
  zeros = {k: np.zeros(theirs[k], np.float32) for k in absent(state, network)}
  state = {k: v for k, v in _split(state).items() if k not in IGNORED} | zeros
  params = keys.to_params(state, mapped, expected)
  flat = {path: v.astype(np.float32) for path, v in keys.flatten(params).items()}
  bad = ["/".join(p) for p, v in flat.items() if not np.isfinite(v).all()]
  if bad:
    raise WeightsError(f"these are no weights of DPT: {', '.join(bad)} not finite")
  return keys.nest(flat)


def _split(state: keys.State) -> dict[str, np.ndarray]:
  """MiDaS's fused projections become three; what cannot be cut is left, and refused."""
  found: dict[str, np.ndarray] = {}
  for name, value in state.items():
    if _FUSED in name and value.ndim and len(value) % 3 == 0:
      for part, rows in zip("qkv", np.split(value, 3)):
        found[name.replace(_FUSED, f".attn.{part}.")] = rows
    else:
      found[name] = value
  return found


def to_state(
  params: keys.Params, naming: str = "transformers"
) -> dict[str, np.ndarray]:
  """The inverse of `to_params`, in the given naming."""
  state = keys.to_state(params, rules(params, naming))
  if naming == "midas":
    for name in [k for k in state if ".attn.q." in k]:
      rows = [state.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
      state[name.replace(".attn.q.", _FUSED)] = np.concatenate(rows)
  return state


def load(path: str | pathlib.Path, network: dpt.Dpt) -> dict[str, Any]:
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
  named = "no weights are named"
  if str(path):
    named = f"{path} does not exist or is no file"
  return (
    f"{named}; DPT-Large's are made once by python -m lamd_jax.tools.convert depth"
    f" --source dpt_large_384.pt --out {FILE_NAME}, from MiDaS's release (1.4 GB) or"
    " the model.safetensors of Intel/dpt-large"
  )
