# SPDX-License-Identifier: Apache-2.0
"""Procedural worlds: data with ground truth and no download."""

from __future__ import annotations

from lamd_jax.data.procedural import sky
from lamd_jax.data.records import World

WORLDS = {"sky": sky.Sky}
VERSIONS = {"sky": sky.VERSION}


def world(name: str, mode: str, seed: int = 0) -> World:
  """Returns world `name` in `mode`. Another `seed` is another data set of the kind."""
  return WORLDS[name](mode, seed=seed)
