# SPDX-License-Identifier: Apache-2.0
"""Does a generated `cater` v1 clip do what its caption says? Scored without a model.

Each clip is tracked (see `cater_tracker`) and compared with its caption. Every object
is asked for something: an object the caption names as subject shall do that action and
end in that cell; an object it does not name shall stay still. An object that is to be
contained is asked for nothing; the sentence about its cone is scored instead.

Beside a score stand its floor, the same clips with other clips' captions, and its
ceiling, true clips with their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import captions
from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import bootstrap
from lamd_jax.evaluation import cater_tracker
from lamd_jax.evaluation.cater_tracker import Track

PROTOCOL = {
  "name": "cater_v1_caption_following",
  "version": 1,
  "score": "mean over objects of action x place",
  "place": "1 - distance to the target cell in units, at least 0",
  "floor": "captions of other clips, a derangement",
  "interval": "95 % percentile bootstrap over clips",
}


class Scores(NamedTuple):
  """Per clip; means over what its caption asks for."""

  action: np.ndarray  # [N] float64 in [0,1]: objects that do what they shall
  cell: np.ndarray  # [N] in [0,1]: targets whose cell is met; nan without a target
  error: np.ndarray  # [N] units from the target cell's centre at the end; nan likewise
  combined: np.ndarray  # [N] in [0,1]: see `score_tracks`


def track(clips: np.ndarray) -> list[tuple[Track, Track]]:
  """Returns what the snitch and the cone do in each clip [N,T,S,S,3] uint8."""
  return [cater_tracker.track(clip) for clip in clips]


def score_tracks(tracks: Sequence[tuple[Track, Track]], texts: Sequence[str]) -> Scores:
  """Scores clips, as `track` sees them, against their captions.

  `combined` is the mean over objects of action x place. `action` is 1 for the right
  action, else 0. `place` is 1 inside the target cell (or quadrant), 0 from one unit
  outside on, linear between; 1 where there is no target.

  Raises ConfigError for a caption that does not belong to v1.
  """
  if len(tracks) != len(texts):
    raise ConfigError(f"{len(texts)} captions for {len(tracks)} clips: give one each")
  rows = [_one(pair, text) for pair, text in zip(tracks, texts, strict=True)]
  return Scores(*np.array(rows, np.float64).reshape(-1, 4).T)


def _outside(x: float, low: float, high: float) -> float:
  return max(low - x, x - high, 0.0)


def _one(pair: tuple[Track, Track], text: str) -> tuple[float, float, float, float]:
  sentences = captions.parse(text)
  for sentence in sentences:
    for noun in filter(None, (sentence.subject, sentence.contained)):
      if noun not in (("cone",), ("snitch",)):
        raise ConfigError(f"{' '.join(noun)!r} is not of cater v1: name cone or snitch")
  idle = dict(enumerate(pair))
  right, parts, cells, errors = [], [], [], []
  for sentence in sentences:
    k = cater_tracker.OBJECTS.index(sentence.subject[0])
    idle.pop(k, None)
    if sentence.contained:
      idle.pop(cater_tracker.OBJECTS.index(sentence.contained[0]), None)
    seen = pair[k]
    right.append(float(seen.action == sentence.action))
    place = 1.0
    x, y = seen.position[-1, :2]
    if sentence.cell is not None:
      centre = [captions.cell_centre(c) for c in sentence.cell]
      cells.append(float(seen.cell == sentence.cell))
      errors.append(float(np.hypot(x - centre[0], y - centre[1])))
      pairs = ((x, centre[0]), (y, centre[1]))
      outside = [_outside(v, c - 0.5, c + 0.5) for v, c in pairs]
      place = max(0.0, 1 - float(np.hypot(*outside)))
    elif sentence.quadrant is not None:
      signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])[sentence.quadrant]
      place = max(0.0, 1 - float(np.hypot(*np.maximum(-signs * (x, y), 0))))
    # An object that was never seen has no place.
    parts.append(right[-1] * np.nan_to_num(place))
  for seen in idle.values():
    right.append(float(seen.action == actions.STILL and bool(seen.visible.any())))
    parts.append(right[-1])
  return (
    float(np.mean(right)),
    float(np.mean(cells)) if cells else np.nan,
    float(np.mean(errors)) if errors else np.nan,
    float(np.mean(parts)),
  )


def compare_tracks(
  tracks: Sequence[tuple[Track, Track]], texts: Sequence[str], seed: int, resamples: int
) -> dict[str, Any]:
  """Scores clips against their own captions and against others'.

  Args:
    tracks: of N >= 2 clips, as `track` gives them.
    texts: N captions.
    seed: of the shuffle and the bootstrap.
    resamples: of the bootstrap.

  Returns:
    {"matched": means, "shuffled": means, "clips": N, "protocol"}; means holds action,
    cell, error (units) and combined, each {"mean", "interval"}. Given true clips
    "matched" is the ceiling; "shuffled" is the floor.
  """
  if len(texts) < 2:
    raise ConfigError(f"{len(texts)} clips have no other captions: give at least 2")
  generator = np.random.default_rng(seed)
  order = derangement(generator, len(texts))
  result: dict[str, Any] = {"clips": len(texts), "protocol": PROTOCOL}
  for name, said in (("matched", list(texts)), ("shuffled", [texts[i] for i in order])):
    scores = score_tracks(tracks, said)
    draws = generator.integers(0, len(texts), (resamples, len(texts)))
    result[name] = {
      field: bootstrap.mean(values, draws)
      for field, values in zip(Scores._fields, scores, strict=True)
    }
  return result


def derangement(generator: np.random.Generator, count: int) -> np.ndarray:
  """Returns an order [N] in which no clip keeps its place, one cycle through all."""
  cycle = generator.permutation(count)
  order = np.empty(count, np.int64)
  order[cycle] = np.roll(cycle, 1)
  return order
