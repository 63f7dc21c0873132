# SPDX-License-Identifier: Apache-2.0
"""The scores of a run as rows, whatever report of eval/ they are in."""

from __future__ import annotations

from collections.abc import Iterator
import json
import math
import pathlib
from typing import Any, NamedTuple


class Score(NamedTuple):
  """A number with its 95 % interval, if it has one."""

  protocol: str  # name and hash
  what: str  # where in the report it stands, "; " between the parts
  value: float
  interval: tuple[float, float] | None = None

  def text(self) -> str:
    if self.interval is None:
      return f"{self.value:.4g}"
    return f"{self.value:.4g} [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"


def _pair(found: Any) -> tuple[float, float] | None:
  if isinstance(found, list | tuple) and len(found) == 2:
    low, high = found
    if isinstance(low, int | float) and isinstance(high, int | float):
      return float(low), float(high)
  return None


def _walk(
  node: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
  """Yields (path, value, interval) of all that looks like a score."""
  if isinstance(node, list):
    for child in node:
      yield from _walk(child, path)
  if not isinstance(node, dict):
    return
  if "value" in node and "title" in node:  # of tools.score
    yield (*path, str(node["title"])), node["value"], node.get("interval_95")
  elif "mean" in node and _pair(node.get("interval")):
    yield path, node["mean"], node["interval"]
  elif "total" in node and isinstance(node.get("interval"), dict):
    yield path, node["total"], node["interval"].get("total")
  else:
    for key, child in node.items():
      if key.startswith("psnr") and isinstance(child, float):
        yield (*path, key.replace("_", " ") + ", dB"), child, None
      else:
        yield from _walk(child, (*path, key.replace("_", " ")))


def _of_report(path: pathlib.Path) -> Iterator[Score]:
  try:
    report = json.loads(path.read_text("utf-8"))
    protocol = report["protocol"]
    name = protocol["name"] if isinstance(protocol, dict) else str(protocol)
  except (OSError, ValueError, LookupError, TypeError):
    return  # not a report of ours
  name = f"{name} {report.get('protocol_hash', '')}".strip()
  for where, value, interval in _walk(report, ()):
    if isinstance(value, int | float) and math.isfinite(value):
      what = "; ".join(part for part in where if part != "scores")
      yield Score(name, what, float(value), _pair(interval))


def read(workdir: pathlib.Path) -> list[Score]:
  """Returns the scores of eval/*.json, report.json first; none if there is none."""
  order = lambda path: (path.name != "report.json", path.name)
  found = sorted((workdir / "eval").glob("*.json"), key=order)
  return [score for path in found for score in _of_report(path)]
