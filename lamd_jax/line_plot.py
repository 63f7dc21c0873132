# SPDX-License-Identifier: Apache-2.0
"""Lines over an axis, as an SVG text: the few plots of reports, without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import html
import math

_COLOURS = ("#1b6ca8", "#d1495b", "#2a9d4a", "#8d5fc4", "#c98a00", "#444444")
_LEFT, _TOP, _WIDTH, _HEIGHT = 56, 34, 560, 260

Points = Sequence[tuple[float, float]]


def _ticks(low: float, high: float) -> list[float]:
  """About five round values from low to high."""
  step = 10 ** math.floor(math.log10((high - low) / 4))
  step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6)
  first = math.ceil(low / step - 1e-9)
  return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(title: str, x_name: str, y_name: str, lines: Mapping[str, Points]) -> str:
  """Returns a plot of named lines, the y axis from 0.

  Args:
    title: above the plot.
    x_name: below it.
    y_name: in its corner.
    lines: name -> (x, y) pairs in order of x; at most six lines.
  """
  xs = [x for points in lines.values() for x, _ in points]
  ys = [y for points in lines.values() for _, y in points]
  x0, x1 = min(xs), max(max(xs), min(xs) + 1)
  top = max(max(ys), 1e-9) * 1.05
  at = lambda x, y: (
    _LEFT + (x - x0) / (x1 - x0) * _WIDTH, _TOP + _HEIGHT * (1 - y / top)
  )  # fmt: skip
  parts = [_text(_LEFT, 18, title, weight="bold")]
  for y in _ticks(0, top):
    px, py = at(x0, y)
    parts.append(f'<path d="M{px:.1f} {py:.1f}h{_WIDTH}" stroke="#ddd"/>')
    parts.append(_text(px - 6, py + 4, f"{y:g}", anchor="end"))
  for x in _ticks(x0, x1):
    px, _ = at(x, 0)
    parts.append(_text(px, _TOP + _HEIGHT + 16, f"{x:g}", anchor="middle"))
  parts.append(_text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 34, x_name, anchor="middle"))
  parts.append(_text(4, _TOP - 6, y_name))
  for i, (name, points) in enumerate(lines.items()):
    colour = _COLOURS[i % len(_COLOURS)]
    path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
    parts.append(
      f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    )
    y = _TOP + 8 + 18 * i
    parts.append(f'<path d="M{_LEFT + _WIDTH + 14} {y}h18" stroke="{colour}"'
                 ' stroke-width="2"/>')  # fmt: skip
    parts.append(_text(_LEFT + _WIDTH + 38, y + 4, name))
  width, height = _LEFT + _WIDTH + 280, _TOP + _HEIGHT + 44
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    f' width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    f'<rect width="{width}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
  )


def _text(
  x: float, y: float, text: str, anchor: str = "start", weight: str = "normal"
) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    f' fill="#222">{html.escape(text)}</text>'
  )
