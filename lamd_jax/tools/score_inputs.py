# SPDX-License-Identifier: Apache-2.0
"""What all scores of tools.score ask of their clips, and how their reports begin."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation import motion
from lamd_jax.evaluation import scoring
from lamd_jax.evaluation.protocol import Protocol


def open_clips(path: str, flag: str) -> clip_sources.Source:
  if not path:
    raise ConfigError(f"--{flag} is missing: a folder of clips or an npz file")
  return clip_sources.open_source(path)


def enough(protocol: Protocol, what: str, path: str, found: int) -> int:
  """Returns how many clips to score. Raises DataError if there are too few."""
  wanted = {"reals": protocol.reals, "fakes": protocol.fakes}[what]
  may_be_fewer = what == "reals" and protocol.fewer_reals
  if found < wanted and not may_be_fewer:
    raise DataError(
      f"{path} gives {found} clips; protocol {protocol.name} asks for {wanted} {what}:"
      f" make more, or say --set {what}={found}, which changes the score's name"
    )
  count = min(found, wanted) if wanted else found
  count -= count % protocol.multiple
  if count < 2:
    raise DataError(f"{path} gives {found} clips, too few for protocol {protocol.name}")
  return count


def head(
  protocol: Protocol, options: argparse.Namespace, weights: str
) -> dict[str, Any]:
  """The beginning of every report."""
  return {
    "protocol": dataclasses.asdict(protocol),
    "protocol_hash": protocol.hash(),
    "weights": weights,
    "made_by": options.made_by,
    "seed": options.seed,
    "resamples": options.resamples,
    "interval": "95 % bootstrap over clips, centred on the score",
    "notes": scoring.notes(protocol, bool(options.real)),
  }


def about(
  path: str, source: clip_sources.Source, where: list[clip_sources.Place],
  moves: np.ndarray, digest: str,
) -> dict[str, Any]:  # fmt: skip
  """What a report says of a set of clips; `moves` [N,5] are motion.Statistics."""
  fields = motion.Statistics._fields[:-1]
  listed = [(source.names[place.video], place.start) for place in where]
  return {
    "path": path,
    "kind": source.kind,
    "sha256": digest,
    "videos": len(source.names),
    "clips": len(where),
    # Data sets lose videos over the years: the same name may mean fewer clips.
    "clip_list": hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16],
    "motion": dict(zip(fields, map(float, moves.mean(0)))),
  }
