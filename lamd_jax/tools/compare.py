# SPDX-License-Identifier: Apache-2.0
"""Two runs side by side on one page: clips, scores, curves, and what was set otherwise.

  python -m lamd_jax.tools.compare runs/a runs/b --out=page.html

The page works from a file path; its clips lie beside it in a folder of its name. Clips
are those of the runs' galleries: equal rows show equal captions and first frames only
where both runs were scored on the same data with the same seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import html
import json
import pathlib
import re
import shutil
import sys
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from lamd_jax import errors
from lamd_jax import gallery
from lamd_jax import learning_curves
from lamd_jax import limits
from lamd_jax import run_folder
from lamd_jax import run_scores
from lamd_jax.errors import ConfigError

_SHOWN = 12  # clips of each run
_UNSCORED = (
  "<h2>Scores</h2><p class=note>Neither run was scored: --mode=evaluate does it.</p>"
)
_CAPTION = re.compile(r"<p class=caption>(.*?)</p>", re.DOTALL)
_SCORED = re.compile(r'<figure data-scores="([^"]*)"><video src="([^"]*)"')


class Run(NamedTuple):
  """A run and the name it has on the page."""

  name: str
  folder: pathlib.Path
  config: ConfigDict


def _open(given: Sequence[str]) -> list[Run]:
  runs = []
  for path in given:
    folder = pathlib.Path(path).expanduser().resolve()
    config = run_folder.read(epath.Path(folder))
    if config is None:
      raise ConfigError(f"{path}: holds no run (no config.json)")
    runs.append(Run(folder.name, folder, config))
  if runs[0].name == runs[1].name:  # the same name in two places
    return [run._replace(name=f"{run.folder.parent.name}/{run.name}") for run in runs]
  return runs


def settings(runs: Sequence[Run]) -> gallery.Table:
  """The keys of the configs that differ."""
  leaves = [dict(limits.leaves(run.config)) for run in runs]
  rows = [
    (key, *(str(x[key]) for x in leaves))
    for key in leaves[0]
    if any(x[key] != leaves[0][key] for x in leaves)
  ]
  note = "What was set otherwise; all other settings are equal."
  note = note if rows else "All settings are equal."
  return gallery.Table("Settings", note, ("setting", *(run.name for run in runs)), rows)


def scores(runs: Sequence[Run]) -> list[gallery.Table]:
  """A table for each protocol; what a run was not scored on is a dash."""
  found: dict[str, dict[str, list[str]]] = {}
  for i, run in enumerate(runs):
    for score in run_scores.read(run.folder):
      rows = found.setdefault(score.protocol, {})
      rows.setdefault(score.what, ["-"] * len(runs))[i] = score.text()
  note = (
    "With 95 % intervals where there are any; a dash: not scored. Numbers of one row are"
    " comparable only if data, clips and sampler are the same: see the settings. Which"
    " way is better, the galleries of the runs say."
  )
  head = ("score", *(run.name for run in runs))
  rows = lambda of: [(what, *cells) for what, cells in of.items()]
  return [
    gallery.Table(f"Scores by {protocol}", note, head, rows(of))
    for protocol, of in found.items()
  ]


class _Clips(NamedTuple):
  """What a run generated for its gallery."""

  paths: list[pathlib.Path]
  captions: list[str]
  scores: list[dict[str, float]]  # of each path; {} where there are none


def _clips(run: Run) -> _Clips:
  paths = sorted((run.folder / "gallery").glob("generated_*.mp4"))[:_SHOWN]
  page = run.folder / "gallery" / "index.html"
  text = page.read_text("utf-8") if page.is_file() else ""
  scored = {name: html.unescape(data) for data, name in _SCORED.findall(text)}
  return _Clips(
    paths,
    [html.unescape(found) for found in _CAPTION.findall(text)],
    [json.loads(scored.get(path.name, "{}")) for path in paths],
  )


def clips(runs: Sequence[Run], page: pathlib.Path) -> str:
  """Copies the clips beside the page; returns the html that plays and sorts them."""
  folder = page.with_suffix("")
  found = [_clips(run) for run in runs]
  count = max(len(of_run.paths) for of_run in found)
  if not count:
    return (
      "<h2>Clips</h2><p class=note>Neither run has generated clips in its gallery;"
      " --mode=evaluate makes some for LVDM and LaMD.</p>"
    )
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for i in range(count):
    told = dict.fromkeys(x.captions[i] for x in found if i < len(x.captions))
    figures = []
    for letter, run, of_run in zip("ab", runs, found):
      if i >= len(of_run.paths):
        figures.append("<figure></figure>")
        continue
      name = f"{letter}_{i:03d}.mp4"
      shutil.copyfile(of_run.paths[i], folder / name)
      source = f"{_url(folder.name)}/{name}"
      figures.append(gallery.figure(source, run.name, of_run.scores[i]))
    rows.append(gallery.row_html(" / ".join(told) or None, figures))
  control = gallery.sort_html([(run.name, x.scores) for run, x in zip(runs, found)])
  note = (
    "<p class=note>Generated clips of both galleries. The clips of one row were made from"
    " the same caption or image only if both runs were scored on the same data with the"
    " same seed.</p>"
  )
  return f"<h2>Clips</h2>{note}{control}{gallery.grid_html(rows, len(runs))}"


def _url(name: str) -> str:
  """A folder's name inside src="...": file names may hold anything."""
  return "".join(
    c if c.isalnum() or c in "-_." else "".join(f"%{b:02X}" for b in c.encode())
    for c in name
  )


def compare(given: Sequence[str], out: pathlib.Path) -> pathlib.Path:
  """Writes the page; returns its path. Raises ConfigError."""
  if out.suffix != ".html":
    raise ConfigError(f"--out={out}: the name must end in .html")
  runs = _open(given)
  out = out.expanduser()
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    scored = scores(runs)
    stages = list(dict.fromkeys(name for run in runs for name in run.config.stages))
    body = "".join(
      [
        *(map(gallery.table_html, scored) if scored else [_UNSCORED]),
        clips(runs, out),
        learning_curves.html({run.name: run.folder for run in runs}, stages),
        gallery.table_html(settings(runs)),
      ]
    )
    title = " and ".join(run.name for run in runs)
    return gallery.write_document(out, title, body)
  except OSError as error:
    raise ConfigError(f"--out={out}: cannot be written ({error.strerror})") from error


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs=2, metavar="RUN")
  parser.add_argument("--out", required=True, type=pathlib.Path, metavar="PAGE.html")
  options = parser.parse_args(arguments)
  return errors.exit_code(lambda: print(compare(options.runs, options.out)))


if __name__ == "__main__":
  sys.exit(main())
