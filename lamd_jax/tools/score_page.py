# SPDX-License-Identifier: Apache-2.0
"""A report of tools.score as lines of text and as one page with a plot."""

from __future__ import annotations

from collections.abc import Mapping
import html as html_lib
from typing import Any

from lamd_jax import line_plot

_MOTION = {
  "difference": "mean |frame difference|, grey levels",
  "difference_std": "its deviation within a clip",
  "static": "fraction of static clips",
  "first_frame_copies": "fraction of frames that copy the first",
  "flickering": "temporal flickering score",
}


def _score(record: Mapping[str, Any]) -> str:
  spread = ""
  if record["interval_95"]:
    spread = " [{:.4g}, {:.4g}]".format(*record["interval_95"])
  return f"{record['value']:.4g}{spread}"


def _counts(record: Mapping[str, Any]) -> str:
  return f"{record['reals']} reals, {record['fakes']} fakes"


def lines(report: Mapping[str, Any]) -> list[str]:
  """Returns the report for a terminal; each score names its protocol and hash."""
  protocol = f"{report['protocol']['name']} {report['protocol_hash']}"
  text = [f"\nprotocol {protocol}   weights {report['weights'][:16]}",
          f"fakes made by: {report['made_by']}"]  # fmt: skip
  for name, records in report["scores"].items():
    text.append(name)
    text += [
      f"  {r['title']:<48} {_score(r):<30} {protocol}, {_counts(r)}" for r in records
    ]
  sides = _sides(report)
  if sides:
    text.append(f"{'motion':<44}" + "".join(f" {side:>10}" for side in sides))
    text += [
      f"  {name:<42}" + "".join(f" {cell:>10}" for cell in cells)
      for name, *cells in _moves(report, sides)
    ]
  if "nearest_real" in report:
    text += [f"  {name:<42} {value}" for name, value in _copies(report)]
  text += _warnings(report)
  text += [f"  {name:<42} {v:>10.4g}" for name, v in report.get("paired", {}).items()]
  return text


def _sides(report: Mapping[str, Any]) -> list[str]:
  return [side for side in ("real", "fake") if side in report]


def _moves(report: Mapping[str, Any], sides: list[str]) -> list[tuple[str, ...]]:
  return [
    (name, *(f"{report[side]['motion'][key]:.4g}" for side in sides))
    for key, name in _MOTION.items()
  ]


def _copies(report: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Colours and copies: how near the reals do clips come?"""
  rows = [
    (
      f"{name} to nearest real, grey levels",
      "mean {mean:.4g}, least {least:.4g}".format(**found),
    )
    for name, found in report["nearest_real"].items()
  ]
  colours = report["colour_histogram_distance"]
  return [*rows, ("colour histograms, 0: equal, 1: apart", f"{colours:.4g}")]


def _warnings(report: Mapping[str, Any]) -> list[str]:
  """What a reader must know before comparing this score with another."""
  found = [f"note: {text}" for text in report.get("notes", [])]
  if len(_sides(report)) < 2:
    return found
  if report["real"]["kind"] != report["fake"]["kind"]:
    found.append(
      f"note: reals are {report['real']['kind']}, fakes {report['fake']['kind']};"
      " compression alone moves scores"
    )
  elif report["real"]["kind"] == "video files":
    found.append("note: both sets are compressed videos; their codecs move scores")
  if any(name.endswith("of the same videos") for name in report["scores"]):
    found.append(
      "note: floor and baselines take other clips of the reals' own videos and lie lower"
      " than clips of other videos would; compare fakes with them accordingly"
    )
  return found


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
  row = lambda cells, tag: (
    "<tr>" + "".join(f"<{tag}>{html_lib.escape(c)}</{tag}>" for c in cells) + "</tr>"
  )
  return "<table>" + row(header, "th") + "".join(row(r, "td") for r in rows) + "</table>"


def html(report: Mapping[str, Any]) -> str:
  """Returns one page: scores, how they depend on the number of clips, the protocol."""
  protocol = f"{report['protocol']['name']} {report['protocol_hash']}"
  records = [(name, r) for name, found in report["scores"].items() for r in found]
  parts = [
    f"<h1>Scores by the protocol {html_lib.escape(protocol)}</h1>",
    "<p>Fakes are the clips that are scored, reals are real ones. Fakes made by:"
    f" {html_lib.escape(report['made_by'])}. In brackets:"
    f" {html_lib.escape(report['interval'])}. Floors, ceilings and baselines are the same"
    " measurement of clips of which one knows how good they are; read the fakes' numbers"
    " beside theirs.</p>",
    _table(
      ("clips", "score", "value", "how many", "protocol"),
      [(name, r["title"], _score(r), _counts(r), protocol) for name, r in records],
    ),
  ]
  curves = {k: v for k, v in report.get("growth", {}).items() if v}
  if curves:
    title = f"{records[0][1]['title']} by number of clips, {protocol}"
    parts.append(line_plot.svg(title, "clips of each set", "distance", curves))
  sides = _sides(report)
  if sides:
    parts += ["<h2>Motion</h2>", _table(("", *sides), _moves(report, sides))]
  if "nearest_real" in report:
    near = _table(("distance", "value"), _copies(report))
    parts += ["<h2>Copies and colours</h2>", near]
  parts += [f"<p>{html_lib.escape(note)}</p>" for note in _warnings(report)]
  if "paired" in report:
    rows = [(name, f"{value:.4g}") for name, value in report["paired"].items()]
    parts += ["<h2>Pairs</h2>", _table(("", "mean"), rows)]
  fields = [(key, str(value)) for key, value in report["protocol"].items()]
  parts += ["<h2>Protocol</h2>", _table(("field", "value"), fields)]
  style = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto}"
    "td,th{padding:.2em .8em;text-align:left}"
  )
  return (
    f'<!doctype html><meta charset="utf-8"><title>{html_lib.escape(protocol)}</title>'
    f"<style>{style}</style>{''.join(parts)}\n"
  )
