# SPDX-License-Identifier: Apache-2.0
"""Temporal parameters apart from the others: two groups of one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tree = Any


def split(params: Mapping[str, Tree]) -> tuple[dict[str, Tree], dict[str, Tree]]:
  """Divides a network's parameters; those of modules named temporal_* come second."""
  spatial: dict[str, Tree] = {}
  temporal: dict[str, Tree] = {}
  for name, value in params.items():
    if name.startswith("temporal_"):
      temporal[name] = value
    elif isinstance(value, Mapping):
      parts = split(value)
      for found, part in zip((spatial, temporal), parts, strict=True):
        if part:
          found[name] = part
    else:
      spatial[name] = value
  return spatial, temporal


def merge(spatial: Mapping[str, Tree], temporal: Mapping[str, Tree]) -> dict[str, Tree]:
  """The inverse of `split`."""
  together = dict(spatial)
  for name, value in temporal.items():
    # A module can have parameters of both kinds below it.
    together[name] = merge(spatial[name], value) if name in spatial else value
  return together
