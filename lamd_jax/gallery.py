# SPDX-License-Identifier: Apache-2.0
"""A static page of clips and scores: one html file beside its mp4s, no framework.

It works from a file path, and can be read without scripts; these sort: tables by a
click on a heading, rows of clips by the scores under them. All text is escaped; file
names are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import html
import json
import math
import os
import pathlib
from typing import NamedTuple

import numpy as np

from lamd_jax import media

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.25rem .75rem;text-align:left;
border-bottom:1px solid #8884}td.n{text-align:right;font-variant-numeric:tabular-nums}
thead th{cursor:pointer}
.grid{display:grid;gap:.75rem;overflow-x:auto}
.row{display:contents}
figure{margin:0}figcaption{font-size:.8rem;opacity:.75}
dl{display:grid;grid-template-columns:1fr auto;gap:0 .5rem;margin:0;line-height:1.3}
dd{margin:0;text-align:right;font-variant-numeric:tabular-nums}
video{width:100%;min-width:96px;image-rendering:pixelated;background:#8882}
p.caption{grid-column:1/-1;margin:.75rem 0 -.5rem}
p.note{opacity:.8;max-width:50rem}
"""

# Plays what is in view and pauses the rest; without scripts the clips still autoplay.
# A click on a table's heading sorts its rows by that column, a second one backwards;
# so does Enter. What has no score comes last, whichever way clips are sorted.
_SCRIPT = """
const seen=new IntersectionObserver(es=>es.forEach(e=>
  e.isIntersecting?e.target.play().catch(()=>{}):e.target.pause()));
document.querySelectorAll('video').forEach(v=>seen.observe(v));
document.querySelectorAll('thead th').forEach(h=>{
  h.tabIndex=0;h.title='Sort by this column';
  h.onkeydown=e=>{if(e.key==='Enter')h.click()};
  h.onclick=()=>{
    const body=h.closest('table').tBodies[0],i=h.cellIndex,down=h.dataset.down!=='1';
    h.dataset.down=down?'1':'';
    const key=r=>{const t=r.cells[i].textContent,x=parseFloat(t);return isNaN(x)?t:x};
    const order=(a,b)=>typeof a===typeof b?(a<b?-1:a>b?1:0):typeof a==='number'?-1:1;
    [...body.rows].sort((r,q)=>(down?1:-1)*order(key(r),key(q)))
      .forEach(r=>body.append(r))}
});
document.querySelectorAll('.sort').forEach(bar=>{
  const grid=bar.nextElementSibling,rows=[...grid.children];
  const [by,way]=bar.querySelectorAll('select');
  bar.hidden=false;
  bar.onchange=()=>{
    const {column,score}=by.selectedOptions[0].dataset;
    const of=r=>JSON.parse(
      r.querySelectorAll('figure')[column]?.dataset.scores??'{}')[score];
    const key=new Map(rows.map(r=>[r,of(r)])),none=r=>key.get(r)===undefined;
    [...rows].sort((r,q)=>none(r)-none(q)||way.value*(key.get(r)-key.get(q)))
      .forEach(r=>grid.append(r))}
});
"""


class Column(NamedTuple):
  """One kind of clip: clips [N,T,H,W,3] uint8 under a title.

  `scores` has a score's name -> its value for each clip, N or more; nan where there is
  none.
  """

  title: str
  clips: np.ndarray
  scores: Mapping[str, Sequence[float]] = {}

  def scores_of(self, i: int) -> dict[str, float]:
    return {name: float(values[i]) for name, values in self.scores.items()}


class Table(NamedTuple):
  """Scores: `rows` of cells, the first a name."""

  title: str
  note: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]


def table_html(table: Table) -> str:
  """Returns a table under its title; all of its text is escaped."""
  head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
  body = "".join(
    "<tr>"
    + "".join(
      f"<td{' class=n' if i else ''}>{html.escape(cell)}</td>"
      for i, cell in enumerate(row)
    )
    + "</tr>"
    for row in table.rows
  )
  return (
    f"<h2>{html.escape(table.title)}</h2><p class=note>{html.escape(table.note)}</p>"
    f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
  )


def figure(name: str, caption: str, scores: Mapping[str, float]) -> str:
  """Returns the html that plays a clip of the page's folder, its scores under it."""
  known = {key: value for key, value in scores.items() if math.isfinite(value)}
  lines = "".join(f"<dt>{html.escape(k)}<dd>{v:.4g}" for k, v in known.items())
  lines = f"<dl>{lines}</dl>" if known else ""
  data = f' data-scores="{html.escape(json.dumps(known))}"' if known else ""
  return (
    f'<figure{data}><video src="{name}" loop muted autoplay playsinline preload="none">'
    f"</video><figcaption>{html.escape(caption)}{lines}</figcaption></figure>"
  )


def row_html(caption: str | None, figures: Sequence[str]) -> str:
  """Returns figures under their caption; they stay together when rows are sorted."""
  told = "" if caption is None else f"<p class=caption>{html.escape(caption)}</p>"
  return f"<div class=row>{told}{''.join(figures)}</div>"


def sort_html(columns: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> str:
  """Returns the control that sorts the grid after it, "" if no clip has a score.

  Args:
    columns: title and scores of the clips of each column of the grid, in order.
  """
  options = ""
  for i, (title, clips) in enumerate(columns):
    scores = [x for clip in clips for x in clip.items() if math.isfinite(x[1])]
    for name in map(html.escape, dict(scores)):
      options += f'<option data-column={i} data-score="{name}">'
      options += f"{html.escape(title)}: {name}"
  if not options:
    return ""
  return (  # without scripts it stays hidden
    "<p class=sort hidden><label>Sort the rows by <select autocomplete=off><option>"
    f"nothing, as they were made{options}</select></label> <label>from <select"
    " autocomplete=off><option value=-1>highest to lowest<option value=1>lowest to"
    " highest</select></label></p>"
  )


def write(
  folder: str | os.PathLike[str],
  title: str,
  columns: Sequence[Column],
  tables: Sequence[Table],
  settings: Mapping[str, object],
  fps: float,
  captions: Sequence[str],
  plots: str = "",
  about: str = "",
) -> pathlib.Path:
  """Writes `folder`/index.html and its clips; returns the page's path.

  Row i of the page holds clip i of every column, side by side, under its caption.
  `plots` is html that goes below the scores, `about` is text: what the columns are.
  """
  folder = pathlib.Path(folder)
  rows = []
  for i in range(max(len(column.clips) for column in columns)):
    figures = []
    for column in columns:
      if i >= len(column.clips):
        figures.append("<figure></figure>")
        continue
      slug = "".join(c if c.isalnum() else "_" for c in column.title.lower())
      name = f"{slug}_{i:03d}.mp4"
      media.write_mp4(folder / name, column.clips[i], fps)
      figures.append(figure(name, column.title, column.scores_of(i)))
    rows.append(row_html(captions[i] if i < len(captions) else None, figures))
  scores = [(x.title, [x.scores_of(i) for i in range(len(x.clips))]) for x in columns]
  clips = f"<p class=note>{html.escape(about)}</p>" if about else ""
  clips += sort_html(scores) + grid_html(rows, len(columns))
  return write_page(folder, title, clips, tables, settings, plots)


def write_page(
  folder: pathlib.Path,
  title: str,
  clips: str,
  tables: Sequence[Table],
  settings: Mapping[str, object],
  plots: str = "",
) -> pathlib.Path:
  """Writes `folder`/index.html about clips that lie there; returns its path.

  Clips come first, what is said about them after. `clips` is html, with a `grid_html`.
  """
  facts = "".join(
    f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
    for key, value in settings.items()
  )
  body = (
    clips
    + "".join(table_html(table) for table in tables)
    + plots
    + f"<h2>Settings</h2><table>{facts}</table>"
  )
  return write_document(folder / "index.html", title, body)


def grid_html(rows: Sequence[str], columns: int) -> str:
  """Returns a grid of `row_html`, each of `columns` figures."""
  return (
    f'<div class="grid" style="grid-template-columns:repeat({columns},1fr)">'
    + "".join(rows)
    + "</div>"
  )


def write_document(target: pathlib.Path, title: str, body: str) -> pathlib.Path:
  """Writes a page whose body is html; it is whole or not there. Returns `target`."""
  page = (
    f'<!doctype html><html lang="en"><meta charset="utf-8"><title>'
    f"{html.escape(title)}</title><meta name=viewport content='width=device-width'>"
    f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{body}"
    f"<script>{_SCRIPT}</script></html>"
  )
  partial = target.with_name(f".{target.stem}.part.html")
  partial.write_text(page, "utf-8")
  os.replace(partial, target)
  return target
