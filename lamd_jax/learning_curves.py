# SPDX-License-Identifier: Apache-2.0
"""Plots of the losses that runs wrote while they trained, for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
import pathlib
from typing import Any

from lamd_jax import line_plot

_POINTS = 400  # of a curve

Points = list[tuple[float, float]]


def _losses(path: pathlib.Path) -> dict[str, Points]:
  """The losses in a stage's metrics.jsonl by name, thinned out."""
  lines: dict[str, Points] = {}
  text = path.read_text("utf-8") if path.is_file() else ""
  for line in text.splitlines():
    try:
      row: dict[str, Any] = json.loads(line)
      step = float(row["step"])
    except (ValueError, LookupError, TypeError):
      continue  # half a line of a run that is being written
    for name, value in row.items():
      if name.startswith("loss/") and isinstance(value, int | float):
        if math.isfinite(value):
          lines.setdefault(name, []).append((step, float(value)))
  thin = lambda points: points[:: -(-len(points) // _POINTS)]
  return {name: thin(points) for name, points in lines.items()}


def html(runs: Mapping[str, pathlib.Path], stages: Sequence[str]) -> str:
  """Returns a section with a plot for each loss that is never negative.

  Args:
    runs: name -> run folder; a plot holds the curves of all.
    stages: whose losses are shown, in this order.
  """
  plots = []
  for stage in stages:
    of = {name: _losses(run / stage / "metrics.jsonl") for name, run in runs.items()}
    for loss in dict.fromkeys(name for lines in of.values() for name in lines):
      lines = {name: found[loss] for name, found in of.items() if loss in found}
      # The plot's axis begins at 0: hinge losses of critics stay out.
      if all(y >= 0 for points in lines.values() for _, y in points):
        title = f"{stage}: {loss.removeprefix('loss/')}"
        plots.append(line_plot.svg(title, "step", "loss", lines))
  return f"<h2>Losses while training</h2>{''.join(plots)}" if plots else ""
