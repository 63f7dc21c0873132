# SPDX-License-Identifier: Apache-2.0
"""Procedural worlds: data with ground truth and no download."""

from __future__ import annotations

from lamd_jax.data.procedural import cater
from lamd_jax.data.procedural import pushing
from lamd_jax.data.procedural import sky
from lamd_jax.data.records import World

WORLDS = {"sky": sky.Sky, "cater": cater.Cater, "pushing": pushing.Pushing}
VERSIONS = {"sky": sky.VERSION, "cater": cater.VERSION, "pushing": pushing.VERSION}
# Worlds whose clip spans its video, however many frames it has.
WHOLE = frozenset({"cater"})
# Worlds whose videos have a length of their own, in frames; others are as long as a clip.
LENGTHS = {"pushing": pushing.FRAMES}


def world(name: str, mode: str, seed: int = 0) -> World:
  """Returns world `name` in `mode`. Another `seed` is another data set of the kind."""
  return WORLDS[name](mode, seed=seed)
