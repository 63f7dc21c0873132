# SPDX-License-Identifier: Apache-2.0
"""A static page of clips and scores: one html file beside its mp4s, no framework.

It works from a file path. All text is escaped; file names are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import html
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
figure{margin:0}figcaption{font-size:.8rem;opacity:.75}
video{width:100%;min-width:96px;image-rendering:pixelated;background:#8882}
p.caption{grid-column:1/-1;margin:.75rem 0 -.5rem}
p.note{opacity:.8;max-width:50rem}
"""

# Plays what is in view and pauses the rest; without scripts the clips still autoplay.
# A click on a table's heading sorts its rows by that column, a second one backwards.
_SCRIPT = """
const seen=new IntersectionObserver(es=>es.forEach(e=>
  e.isIntersecting?e.target.play().catch(()=>{}):e.target.pause()));
document.querySelectorAll('video').forEach(v=>seen.observe(v));
document.querySelectorAll('thead th').forEach(h=>h.onclick=()=>{
  const body=h.closest('table').tBodies[0],i=h.cellIndex,down=h.dataset.down!=='1';
  h.dataset.down=down?'1':'';
  const key=r=>{const t=r.cells[i].textContent,x=parseFloat(t);return isNaN(x)?t:x};
  const order=(a,b)=>typeof a===typeof b?(a<b?-1:a>b?1:0):typeof a==='number'?-1:1;
  [...body.rows].sort((r,q)=>(down?1:-1)*order(key(r),key(q)))
    .forEach(r=>body.append(r));
});
"""


class Column(NamedTuple):
  """One kind of clip: clips [N,T,H,W,3] uint8 under a title."""

  title: str
  clips: np.ndarray


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


def figure(name: str, caption: str) -> str:
  """Returns the html that plays a clip of the page's folder."""
  return (
    f'<figure><video src="{name}" loop muted autoplay playsinline preload="none">'
    f"</video><figcaption>{html.escape(caption)}</figcaption></figure>"
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
) -> pathlib.Path:
  """Writes `folder`/index.html and its clips; returns the page's path.

  Row i of the page holds clip i of every column, side by side, under its caption.
  `plots` is html that goes below the scores.
  """
  folder = pathlib.Path(folder)
  rows = max(len(column.clips) for column in columns)
  figures = []
  for i in range(rows):
    if i < len(captions):
      figures.append(f"<p class=caption>{html.escape(captions[i])}</p>")
    for column in columns:
      if i >= len(column.clips):
        figures.append("<figure></figure>")
        continue
      slug = "".join(c if c.isalnum() else "_" for c in column.title.lower())
      name = f"{slug}_{i:03d}.mp4"
      media.write_mp4(folder / name, column.clips[i], fps)
      figures.append(figure(name, column.title))
  return write_page(folder, title, figures, len(columns), tables, settings, plots)


def write_page(
  folder: pathlib.Path,
  title: str,
  figures: Sequence[str],
  columns: int,
  tables: Sequence[Table],
  settings: Mapping[str, object],
  plots: str = "",
) -> pathlib.Path:
  """Writes `folder`/index.html about clips that lie there; returns its path.

  Clips come first, what is said about them after. `figures` are `figure`s, or html of captions between rows of `columns` figures.
  """
  facts = "".join(
    f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
    for key, value in settings.items()
  )
  body = (
    grid_html(figures, columns)
    + "".join(table_html(table) for table in tables)
    + plots
    + f"<h2>Settings</h2><table>{facts}</table>"
  )
  return write_document(folder / "index.html", title, body)


def grid_html(figures: Sequence[str], columns: int) -> str:
  """Returns figures in rows of `columns`."""
  return (
    f'<div class="grid" style="grid-template-columns:repeat({columns},1fr)">'
    + "".join(figures)
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
