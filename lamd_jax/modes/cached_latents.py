# SPDX-License-Identifier: Apache-2.0
"""Which clips a stage's latent cache holds, and where it lies: training fills it as it
starts, tools.prepare ahead of it.

WORKDIR/latent_cache/<key>/ has one .npy a field of types.LatentBatch, row i clip i of the
table (`train.latent_windows` times over), and complete.json {"count", "fields"}. The key
is a hash of the encoding weights and of all that fixes the clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from lamd_jax import types
from lamd_jax.data import pipeline
from lamd_jax.training import latent_cache
from lamd_jax.training import stage as stage_lib

# Clips encoded at once.
_BATCH = 16


class Cache(NamedTuple):
  """What is to be encoded."""

  data: ConfigDict  # the data group
  split: str
  seed: int
  windows: int
  batch: int  # clips encoded at once
  count: int  # clips in all
  folder: epath.Path

  def batches(self, first: int) -> Iterator[types.VideoBatch]:
    """Yields the clips in order, from clip `first` on; it is a multiple of `batch`."""
    return pipeline.in_order(
      self.data, self.split, self.batch, self.seed, self.windows, first
    )


def clips_of(stage: stage_lib.Stage, config: ConfigDict) -> ConfigDict:
  """Returns the data group with clips as long as the stage takes them."""
  data = config.data.copy_and_resolve_references()
  with data.unlocked():
    data.frames = stage.frames
  return data


def plan(
  stage: stage_lib.Stage,
  config: ConfigDict,
  frozen: stage_lib.Frozen,
  workdir: epath.Path,
) -> Cache:
  """Returns what the cache of a stage holds; `frozen` has at least what encodes."""
  windows = config.train.latent_windows
  data, split = clips_of(stage, config), config.data.split
  rows = pipeline.check(data, split)
  clips = {"clips": pipeline.fingerprint(data, split), "windows": windows}
  # What the stage's `encode` keeps of a clip, and the weights that it reads.
  clips["stage"] = stage.cached_as
  name = latent_cache.key({name: frozen[name] for name in stage.encoded_by}, clips)
  return Cache(
    data, split, config.seed, windows, min(_BATCH, rows), rows * windows,
    workdir / "latent_cache" / name,
  )  # fmt: skip
