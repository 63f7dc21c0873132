# SPDX-License-Identifier: Apache-2.0
"""Low-rank changes of a denoiser (LoRA) as safetensors files, under common names.

Written is the layout of kohya's trainers, which most programs read and which holds its
alpha beside each layer:

  lora_unet_LAYER.lora_down.weight  [r,in]    LAYER is a published network's name of the
  lora_unet_LAYER.lora_up.weight    [out,r]   layer with "_" for its dots
  lora_unet_LAYER.alpha             []        the layer counts up @ down * alpha / r

A layer that is published as a pointwise convolution has its ones behind both shapes.
Read is that of PEFT and diffusers too: unet.LAYER.lora_A.weight and lora_B.weight, whose
alpha stands in the metadata or in adapter_config.json beside the file; where none is
said it is r.

LAYER is a name of LVDM's release for lvdm's networks. Those of gen1 and lamd have the
shape of Stable Diffusion 1's UNet; their layers go by diffusers' names, as in files for
that model, and are read by latent diffusion's too. Gen-1's temporal transformers are
called what diffusers calls such: motion_modules in the place of attentions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_unet
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import sd_unet

METADATA = "lamd_jax_lora"  # our entry, JSON
_DIFFUSERS_METADATA = "lora_adapter_metadata"
_ADAPTER = "adapter_model.safetensors"  # PEFT's name; its settings lie beside it
_KOHYA = "lora_unet_"
_PEFT = ("unet.", "base_model.model.", "base_model.model.unet.", "")
_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
_PARTS = {
  _DOWN: _DOWN, "lora_A.weight": _DOWN, "lora_A.default.weight": _DOWN,
  _UP: _UP, "lora_B.weight": _UP, "lora_B.default.weight": _UP, _ALPHA: _ALPHA,
}  # fmt: skip
# Ones behind the two sizes of a published weight.
_ONES = {"dense": 0, "conv1d_as_dense": 1, "conv2d_as_dense": 2, "conv3d_as_dense": 3}
_SHOWN = 12  # of a file's problems, in a message

Path = tuple[str, ...]


class Layer(NamedTuple):
  """A linear layer of a denoiser that a file can have a change of."""

  path: Path  # of its module
  names: tuple[str, ...]  # published ones, dotted; the first is written
  ones: int
  shape: tuple[int, int]  # in, out


class Change(NamedTuple):
  """What a layer's kernel W [in,out] becomes: W + weight * alpha / r * a @ b."""

  a: np.ndarray  # [in,r] float32
  b: np.ndarray  # [r,out] float32
  alpha: float


def layers(system: str, params: keys.Params) -> list[Layer]:
  """Returns the linear layers of a denoiser's attention blocks.

  Args:
    system: lvdm, lamd or gen1.
    params: of its UNet, or their shapes; of gen1 temporal ones among them.
  """
  found = _LAYERS[system](params)
  flat = keys.flatten(params)
  return [layer._replace(shape=flat[(*layer.path, "kernel")].shape) for layer in found]


def _of(rule: keys.Rule, *others: keys.Rule) -> Layer:
  names = [r.source.removesuffix(".weight") for r in (rule, *others)]
  return Layer(rule.path[:-1], tuple(names), _ONES[rule.layout], (0, 0))


def _kernels(rules: Sequence[keys.Rule]) -> list[keys.Rule]:
  return [rule for rule in rules if rule.path[-1] == "kernel"]


def _lvdm(params: keys.Params) -> list[Layer]:
  # The other blocks' names stay: places are counted by them.
  blocks = {n: b if n.endswith("_attention") else {} for n, b in params.items()}
  return [_of(rule) for rule in _kernels(lvdm_unet.rules(blocks))]


def _sd(params: keys.Params, place: Path) -> list[Layer]:
  """Layers of the transformers at `place` within the attention blocks."""
  blocks = {}
  for name, block in params.items():
    inner = block if name.endswith("_attention") else {}
    for step in place:
      inner = inner.get(step, {})
    modules = {k: v for k, v in inner.items() if isinstance(v, Mapping)}
    blocks[name] = {"spatial": modules}
  named = [_kernels(sd_unet.rules(blocks, names)) for names in ("diffusers", "ldm")]
  found = []
  for newer, older in zip(*named, strict=True):
    layer = _of(newer, older)
    block, _, *rest = layer.path
    found.append(layer._replace(path=(block, *place, *rest)))
  return found


def _gen1(params: keys.Params) -> list[Layer]:
  temporal = [
    layer._replace(names=(layer.names[0].replace(".attentions.", ".motion_modules."),))
    for layer in _sd(params, ("temporal_transformer",))
  ]
  return _sd(params, ("spatial",)) + temporal


_LAYERS = {"lvdm": _lvdm, "lamd": lambda params: _sd(params, ()), "gen1": _gen1}


def write(
  path: pathlib.Path,
  changes: Mapping[Path, Change],
  known: Sequence[Layer],
  about: Mapping[str, Any],
) -> None:
  """Writes changes; equal input gives equal files.

  Args:
    path: the file.
    changes: by the path of the module.
    known: `layers` of the network.
    about: JSON values, for the metadata.

  Raises:
    WeightsError: the file cannot be written, or a layer has no published name.
  """
  by_path = {layer.path: layer for layer in known}
  strange = ["/".join(p) for p in changes if p not in by_path]
  if strange:
    raise WeightsError(f"{path}: there is no published name for {', '.join(strange)}")
  state = {}
  for place, change in changes.items():
    layer = by_path[place]
    stem, ones = _KOHYA + layer.names[0].replace(".", "_"), (1,) * layer.ones
    for part, array in ((_DOWN, change.a.T), (_UP, change.b.T)):
      state[f"{stem}.{part}"] = array.reshape(*array.shape, *ones)
    state[f"{stem}.{_ALPHA}"] = np.asarray(change.alpha, np.float32)
  metadata = {METADATA: json.dumps(dict(about), sort_keys=True)}
  safetensors_file.write(path, state, metadata)


def about(path: str | pathlib.Path) -> dict[str, Any]:
  """What `write` was told to say; {} of files of others. Raises WeightsError."""
  path = pathlib.Path(path)
  return _json(path, safetensors_file.metadata(path).get(METADATA, "{}"))


def read(path: str | pathlib.Path, known: Sequence[Layer]) -> dict[Path, Change]:
  """Reads the changes of a network; of either layout, strictly.

  Args:
    path: a safetensors file.
    known: `layers` of the network.

  Raises:
    WeightsError: one line that begins with the file's name and lists what is unknown,
      twice there, without its other half, of a wrong shape or not finite.
  """
  path = pathlib.Path(path).expanduser()
  state = safetensors_file.read(path)
  parts, problems = _sorted(state, known)
  said = _alpha_said(path)
  changes = {}
  for layer in known:
    if layer.path in parts:
      change = _change(layer, parts[layer.path], said, problems)
      if change is not None:
        changes[layer.path] = change
  if not state:
    problems.append("it is empty")
  if problems:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise WeightsError(
      f"{path}: is no LoRA of this network ({len(problems)} problems):"
      f" {'; '.join(problems[:_SHOWN])}{more}"
    )
  return changes


def _json(path: pathlib.Path, text: str) -> dict[str, Any]:
  try:
    found = json.loads(text)
  except ValueError as error:
    raise WeightsError(f"{path}: its metadata are damaged ({error})") from error
  if not isinstance(found, dict):
    raise WeightsError(f"{path}: its metadata are damaged; write it again")
  return found


def _sorted(
  state: keys.State, known: Sequence[Layer]
) -> tuple[dict[Path, dict[str, np.ndarray]], list[str]]:
  """Returns each layer's arrays by part, and what is wrong with the names."""
  owners = {}
  for layer in known:
    for name in layer.names:
      owners[_KOHYA + name.replace(".", "_")] = layer.path
      owners |= {prefix + name: layer.path for prefix in _PEFT}
  parts: dict[Path, dict[str, np.ndarray]] = {}
  problems = []
  for name, value in state.items():
    suffix = next((s for s in _PARTS if name.endswith(f".{s}")), "")
    owner = owners.get(name.removesuffix(f".{suffix}")) if suffix else None
    if owner is None:
      problems.append(f"{name} is unknown")
    elif _PARTS[suffix] in parts.setdefault(owner, {}):
      problems.append(f"{name} is there under another name too")
    else:
      parts[owner][_PARTS[suffix]] = value
  return parts, problems


def _change(
  layer: Layer,
  parts: Mapping[str, np.ndarray],
  said: float | None,
  problems: list[str],
) -> Change | None:
  """A layer's change, or None and one more of `problems`."""
  name = layer.names[0]
  for part, other in ((_DOWN, _UP), (_UP, _DOWN)):
    if part not in parts:
      what = f"without {part}" if other in parts else "of alpha alone"
      problems.append(f"{name} is there {what}")
      return None
  # A pointwise layer may be stored with its ones or without.
  flat = lambda x: x.reshape(x.shape[:2]) if set(x.shape[2:]) <= {1} else x
  down, up = flat(parts[_DOWN]), flat(parts[_UP])
  rank = down.shape[0] if down.ndim else 0
  default = rank if said is None else said
  alpha = np.asarray(parts.get(_ALPHA, default), np.float32)
  size_in, size_out = layer.shape
  if not rank or down.shape != (rank, size_in) or up.shape != (size_out, rank):
    problems.append(
      f"{name} has shapes {parts[_DOWN].shape} and {parts[_UP].shape}, expected"
      f" (r, {size_in}) and ({size_out}, r)"
    )
  elif alpha.size != 1:
    problems.append(f"alpha of {name} has shape {alpha.shape}, expected ()")
  elif not all(np.isfinite(x).all() for x in (down, up, alpha)):
    problems.append(f"{name} is not finite")
  else:
    turned = lambda x: np.ascontiguousarray(x.T, np.float32)
    return Change(turned(down), turned(up), float(alpha.reshape(())))
  return None


def _alpha_said(path: pathlib.Path) -> float | None:
  """The alpha that PEFT or diffusers keep apart from the tensors; None for none."""
  found = {
    key.removeprefix("unet."): value
    for key, value in _json(path, safetensors_file.metadata(path).get(_DIFFUSERS_METADATA, "{}")).items()
  }
  beside = path.with_name("adapter_config.json")
  if path.name == _ADAPTER and beside.is_file():
    found = _json(beside, beside.read_text("utf-8", "replace"))
  for key in ("use_rslora", "use_dora", "alpha_pattern"):
    if found.get(key):
      raise WeightsError(f"{path}: was made with {key}, which is not supported")
  said = found.get("lora_alpha")
  if said is not None and type(said) not in (int, float):
    raise WeightsError(f"{path}: lora_alpha is {said!r:.40}, a number is due")
  return None if said is None else float(said)


def merged(
  params: keys.Params, changes: Mapping[Path, Change], weight: float
) -> dict[str, Any]:
  """Returns parameters with changes added, in NumPy; at a weight of 0 the same ones."""
  if not weight:
    return dict(params)
  flat = keys.flatten(params)
  for path, change in changes.items():
    kernel = np.asarray(flat[(*path, "kernel")])
    scale = np.float32(weight * change.alpha / change.a.shape[1])
    flat[(*path, "kernel")] = kernel + scale * (change.a @ change.b)
  return keys.nest(flat)
