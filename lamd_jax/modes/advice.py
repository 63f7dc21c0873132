# SPDX-License-Identifier: Apache-2.0
"""What to change so that a program fits, or fills the memory there is.

From one compilation: what lies in memory throughout (arguments) is known exactly, the
rest (moving) is taken to be proportional to the clips a device has at once. A little
of it is not, so that more clips fit than is said, and fewer save less. `tools.fit`
compiles at two batches to tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from lamd_jax.ahead import Compiled

_WITHOUT_REMAT = ("content", "prior")  # small networks
_WORTH = 0.9  # a mesh is worth a line if the state shrinks to this


def gib(size: float) -> str:
  return f"{size / 2**30:.2f} GiB"


def _micro_batch(stage: str, config: ConfigDict, found: Compiled, parts: int) -> str:
  """The fewest micro-batches that fit; "" if no number of them does."""
  optim = config.optim[stage]
  moving = found.needed - found.arguments
  for times in range(2, optim.batch // (optim.accumulate * parts) + 1):
    accumulate = times * optim.accumulate
    predicted = found.arguments + moving / times
    if optim.batch % (accumulate * parts) == 0 and predicted <= found.available:
      return f"optim.{stage}.accumulate={accumulate}: about {gib(predicted)}"
  return ""


def _mesh(found: Compiled, meshes: Mapping[str, int]) -> str:
  """The mesh whose devices hold least; "" if it is the present one, or nearly."""
  mesh = min(meshes, key=lambda name: meshes[name], default="")
  if not mesh or meshes[mesh] > _WORTH * found.arguments:
    return ""
  saved = found.arguments - meshes[mesh]
  return f"train.mesh={mesh}: state {gib(meshes[mesh])}, about {gib(found.needed - saved)}"


def _remat(stage: str, config: ConfigDict, found: Compiled) -> str:
  if stage in _WITHOUT_REMAT:
    return ""
  if config.train.remat == "full" or found.arguments >= found.available:
    return ""
  name = "names" if config.train.remat == "none" else "full"
  share = (found.needed - found.available) / (found.needed - found.arguments)
  return f"train.remat={name}: fits if it saves {100 * share:.0f} % of the rest"


def _larger_batch(stage: str, config: ConfigDict, found: Compiled, parts: int) -> str:
  optim = config.optim[stage]
  moving = found.needed - found.arguments
  rows = optim.batch // (optim.accumulate * parts)
  most = int((found.available - found.arguments) * rows // moving) if moving > 0 else 0
  if most <= rows:
    return ""
  batch = most * parts * optim.accumulate
  predicted = found.arguments + moving * most / rows
  return f"optim.{stage}.batch={batch}: about {gib(predicted)}"


def of_training(
  stage: str, config: ConfigDict, found: Compiled, parts: int, meshes: Mapping[str, int]
) -> list[str]:
  """Returns suggestions, each `key=value: what to expect`, the best first.

  Args:
    stage: its name.
    config: the config that was compiled.
    found: what the compiler said.
    parts: into how many pieces the mesh cuts a batch.
    meshes: of other meshes, the bytes of the arguments on a device.
  """
  if found.fits:
    lines = [_larger_batch(stage, config, found, parts)]
  elif not found.needed:
    lines = ["train.mesh, optim.*.accumulate and train.remat: the compiler gave no size"]
  else:
    lines = [
      _mesh(found, meshes),
      _micro_batch(stage, config, found, parts),
      _remat(stage, config, found),
    ]
  given = [line for line in lines if line]
  if given or found.fits:
    return given
  optim = config.optim[stage]
  rows = optim.batch // (optim.accumulate * parts)
  least = found.arguments + (found.needed - found.arguments) / rows
  return [f"a slice with more memory: one clip a device needs about {gib(least)}"]


def of_sampling(sample: ConfigDict, found: Compiled) -> list[str]:
  """The same for the sampler: a row is a clip."""
  if found.fits:
    return []
  moving = found.needed - found.arguments
  rows = int((found.available - found.arguments) * sample.batch // max(1, moving))
  if rows < 1:
    return [f"a slice with more memory: the weights alone are {gib(found.arguments)}"]
  predicted = found.arguments + moving * rows / sample.batch
  return [f"--sample.batch={rows}: about {gib(predicted)}"]
