# SPDX-License-Identifier: Apache-2.0
"""What a run's records say at its end, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
import json
from typing import Any

from etils import epath


def _rows(path: epath.Path) -> list[dict[str, Any]]:
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      rows.append(json.loads(line))
    except ValueError:
      continue  # half a line of a run that was killed
  return [r for r in rows if isinstance(r, dict) and "step" in r and "seconds" in r]


def _rate(rows: Sequence[dict[str, Any]]) -> str:
  """Steps a second since the last start; the clock of a resumed run begins anew."""
  first = 0
  for i in range(1, len(rows)):
    if rows[i]["seconds"] < rows[i - 1]["seconds"]:
      first = i
  seconds = rows[-1]["seconds"] - rows[first]["seconds"]
  steps = rows[-1]["step"] - rows[first]["step"]
  return f", {steps / seconds:.3g} steps/s" if steps and seconds > 0 else ""


def _losses(rows: Sequence[dict[str, Any]]) -> str:
  parts = []
  for name, last in rows[-1].items():
    first = rows[0].get(name)
    if name.startswith("loss/") and isinstance(last, int | float) and last:
      before = f" (from {first:.4g})" if isinstance(first, int | float) else ""
      parts.append(f"{name.removeprefix('loss/')} {last:.4g}{before}")
  return f", loss {', '.join(parts)}" if parts else ""


def lines(workdir: epath.PathLike, stages: Sequence[str]) -> list[str]:
  """Returns a line for each stage that has records."""
  found = []
  for stage in stages:
    rows = _rows(epath.Path(workdir) / stage / "metrics.jsonl")
    if rows:
      step = rows[-1]["step"]
      found.append(f"{stage:<20} {step} steps{_rate(rows)}{_losses(rows)}")
  return found
