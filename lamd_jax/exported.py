# SPDX-License-Identifier: Apache-2.0
"""Models as folders to pass on: safetensors and JSON, the layout of a Hub repository.

  config.json             the run's config, without the folders of its data
  model.safetensors       averaged weights (EMA) of every network that sampling needs
  model_raw.safetensors   the weights themselves, where there are averages
  preprocessor.json       what clips go in and come out, and the SHA-256 of each file
  README.md, samples/     the model card

A tensor is named STAGE/params/GROUP/.../NAME or STAGE/extras/NAME. A file above 5 GB
is cut into shards with an index, as on the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import safetensors_file

FACTS = "preprocessor.json"
FORMAT = "lamd_jax export 1"
FILES = {"ema": "model.safetensors", "raw": "model_raw.safetensors"}
SHARD_BYTES = 5 * 10**9

Weights = Mapping[str, Mapping[str, Any]]  # {stage: {"params": ..., "extras": ...}}


def holds(folder: pathlib.Path) -> bool:
  """Whether a folder is an export."""
  return (folder / FACTS).exists()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
  """Nested dicts of arrays by path, "/" between names."""
  found: dict[str, np.ndarray] = {}
  for name, value in tree.items():
    if "/" in name:
      raise WeightsError(f"{prefix}{name}: a name with a slash cannot be exported")
    if isinstance(value, Mapping):
      found |= flatten(value, f"{prefix}{name}/")
    else:
      found[f"{prefix}{name}"] = np.asarray(value)
  return found


def empty_nodes(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
  """Paths of the dicts without entries, which `flatten` has no place for."""
  found = []
  for name, value in tree.items():
    if isinstance(value, Mapping):
      below = f"{prefix}{name}"
      found += empty_nodes(value, f"{below}/") if value else [below]
  return found


def unflatten(
  tensors: Mapping[str, np.ndarray], empty: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
  """The inverse of `flatten` and `empty_nodes`; every stage gets its `extras`."""
  tree: dict[str, Any] = {}

  def parent(path: str) -> tuple[dict[str, Any], str]:
    *above, name = path.split("/")
    node = tree
    for part in above:
      node = node.setdefault(part, {})
      if not isinstance(node, dict):
        raise WeightsError(f"{path}: lies below a tensor; no export of ours")
    return node, name

  for path, array in tensors.items():
    node, name = parent(path)
    node[name] = array
  for path in empty:
    node, name = parent(path)
    node[name] = {}
  for stage in tree.values():
    stage.setdefault("extras", {})
  return tree


def write_weights(
  folder: pathlib.Path, which: str, weights: Weights, limit: int = SHARD_BYTES
) -> list[str]:
  """Writes ema or raw weights; returns the names of the files.

  Raises:
    WeightsError: a tensor would not come back bit by bit, or the disk is full.
  """
  tensors = flatten(weights)
  for path, array in tensors.items():
    # The reader widens 16-bit floats, which would be another dtype.
    if array.dtype not in (np.float32, np.float64, np.int32, np.int64, np.uint8, bool):
      raise WeightsError(f"{path} is {array.dtype}, which exports do not hold")
  shards: list[dict[str, np.ndarray]] = [{}]
  size = 0
  for path in sorted(tensors):
    if shards[-1] and size + tensors[path].nbytes > limit:
      shards.append({})
      size = 0
    shards[-1][path] = tensors[path]
    size += tensors[path].nbytes
  metadata = {"format": "lamd_jax"}
  name = FILES[which]
  if len(shards) == 1:
    safetensors_file.write(folder / name, shards[0], metadata)
    return [name]
  stem = name.removesuffix(".safetensors")
  names = [
    f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
  ]
  for shard, part in zip(names, shards):
    safetensors_file.write(folder / shard, part, metadata)
  index = {
    "metadata": {"total_size": sum(array.nbytes for array in tensors.values())},
    "weight_map": {path: n for n, part in zip(names, shards) for path in part},
  }
  (folder / f"{name}.index.json").write_text(json.dumps(index, indent=1) + "\n")
  return [*names, f"{name}.index.json"]


def sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def facts(folder: pathlib.Path) -> dict[str, Any]:
  """Reads preprocessor.json. Raises WeightsError if it is not ours."""
  path = folder / FACTS
  try:
    found = json.loads(path.read_text("utf-8"))
    if found["format"] == FORMAT and isinstance(found["files"], dict):
      return found
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise WeightsError(f"{path}: cannot be read ({error}); export it again") from error
  raise WeightsError(f"{path}: is {found['format']}; this version reads {FORMAT}")


def read(folder: pathlib.Path, which: str, verify: str = "full") -> dict[str, Any]:
  """Reads the weights of an export, bit by bit what was written.

  Args:
    folder: of the export.
    which: ema or raw; of a model without averages they are the same.
    verify: "full" compares the files' SHA-256 first; "size" and "off" do not.

  Raises:
    WeightsError: a file is absent, damaged or not the one that was exported.
  """
  known_facts = facts(folder)
  known = known_facts["files"]
  stems = {key: name.removesuffix(".safetensors") for key, name in FILES.items()}
  of = lambda stem: [n for n in known if n.startswith((f"{stem}.", f"{stem}-0"))]
  names = of(stems[which]) or of(stems["ema"])
  for file in names:
    path = folder / file
    if not path.is_file():
      raise WeightsError(f"{path}: is missing; fetch or export the model again")
    if verify == "full" and sha256(path) != known[file]:
      raise WeightsError(f"{path}: is not as it was exported; fetch it again")
  tensors: dict[str, np.ndarray] = {}
  for file in names:
    if file.endswith(".safetensors"):
      tensors |= safetensors_file.read(folder / file)
  if not tensors:
    raise WeightsError(f"{folder}: names no weights in {FACTS}; export it again")
  return unflatten(tensors, known_facts.get("empty", ()))
