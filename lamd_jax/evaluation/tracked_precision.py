# SPDX-License-Identifier: Apache-2.0
"""Action and referring-expression precision of MAGE, with a tracker for a captioner.

MAGE (Hu et al. 2022) lets a network caption the generated clips and compares these
captions with the true ones, sentence by sentence. Here the tracker of the world writes
them (`describe`), so that no captioner's mistakes are scored. The counts are MAGE's:

  referring  each word of a true subject is a hit if the answering sentence's subject
             has it, else a miss; words of a contained object likewise, if both contain
  action     one hit or miss for the verb; where it is right, sliding and placing add
             one for the target

Of two sentences the better assignment counts: the one of higher action precision, then
of higher referring precision. A sentence that nothing answers costs nothing in mode
`mage`; `strict` charges it, and extra words and sentences, as misses. A clip without any
sentence scores 0. A clip whose true caption is empty is not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import captions
from lamd_jax.data.procedural.cater.captions import Sentence
from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import cater_tracker
from lamd_jax.evaluation.cater_tracker import Track

MODES = ("mage", "strict")


class Counts(NamedTuple):
  """Hits and all, of both precisions."""

  action_hits: int = 0
  action: int = 0
  word_hits: int = 0
  words: int = 0

  def plus(self, other: Counts) -> Counts:
    return Counts(*(a + b for a, b in zip(self, other, strict=True)))

  def precision(self) -> tuple[float, float]:
    """Action and referring precision; 0 of nothing."""
    return self.action_hits / max(self.action, 1), self.word_hits / max(self.words, 1)


def describe(pair: tuple[Track, Track]) -> list[Sentence]:
  """Returns what a caption would say of the snitch and the cone of a v1 clip."""
  sentences = []
  for k, track in enumerate(pair):
    subject = (cater_tracker.OBJECTS[k],)
    if track.action == actions.ROTATE:
      sentences.append(Sentence(subject, track.action))
    elif track.action == actions.CONTAIN:
      contained = (cater_tracker.OBJECTS[cater_tracker.SNITCH],)
      sentences.append(Sentence(subject, track.action, contained=contained))
    elif track.action in (actions.SLIDE, actions.PICK_PLACE):
      sentences.append(Sentence(subject, track.action, cell=track.cell))
  return sentences


def _same_place(true: Sentence, said: Sentence) -> bool:
  if true.quadrant is None:
    return true.cell == said.cell
  if said.cell is None:
    return true.quadrant == said.quadrant
  return true.quadrant == captions.quadrant(*map(captions.cell_centre, said.cell))


def _words(true: Sequence[str], said: Sequence[str], strict: bool) -> Counts:
  hits = sum(word in said for word in true)
  extra = sum(word not in true for word in said) if strict else 0
  return Counts(word_hits=hits, words=len(true) + extra)


def compare_sentences(true: Sentence, said: Sentence, strict: bool) -> Counts:
  counts = _words(true.subject, said.subject, strict)
  if true.action != said.action:
    return counts.plus(Counts(action=1))
  counts = counts.plus(Counts(action_hits=1, action=1))
  if true.action in (actions.SLIDE, actions.PICK_PLACE):
    counts = counts.plus(Counts(action_hits=int(_same_place(true, said)), action=1))
  if true.action == actions.CONTAIN:
    counts = counts.plus(_words(true.contained, said.contained, strict))
  return counts


def _alone(sentence: Sentence) -> Counts:
  """A sentence without a counterpart, where that is charged."""
  return Counts(action=1, words=len(sentence.subject))


def compare_captions(
  true: Sequence[Sentence], said: Sequence[Sentence], mode: str
) -> tuple[float, float]:
  """Returns action and referring precision of one clip; nan where nothing is true."""
  strict = mode == "strict"
  # MAGE's captions have two sentences at most, and a third is not read.
  true, said = list(true)[:2], list(said)[:2]
  if not true:
    return np.nan, np.nan
  if not said:
    return 0.0, 0.0
  few, many = sorted((true, said), key=len)
  tried = []
  for chosen in itertools.permutations(many, len(few)):
    counts = Counts()
    for a, b in zip(few, chosen, strict=True):
      pair = (a, b) if few is true else (b, a)
      counts = counts.plus(compare_sentences(*pair, strict))
    for other in (x for x in many if x not in chosen):
      counts = counts.plus(_alone(other) if strict else Counts())
    tried.append(counts.precision())
  return max(tried)


def score(
  tracks: Sequence[tuple[Track, Track]], texts: Sequence[str], mode: str = "mage"
) -> np.ndarray:
  """Returns action and referring precision of tracked clips, [N,2] float64."""
  if len(tracks) != len(texts):
    raise ConfigError(f"{len(texts)} captions for {len(tracks)} clips: give one each")
  if mode not in MODES:
    raise ConfigError(f"mode={mode}: choose one of {', '.join(MODES)}")
  rows = [
    compare_captions(captions.parse(text), describe(pair), mode)
    for pair, text in zip(tracks, texts, strict=True)
  ]
  return np.array(rows, np.float64).reshape(-1, 2)


def compare(
  tracks: Sequence[tuple[Track, Track]],
  texts: Sequence[str],
  order: np.ndarray,
  resamples: int,
  seed: int,
) -> dict[str, Any]:
  """Scores clips against their own captions and those in `order` [N].

  Returns {mode: {"matched" | "shuffled": {"action" | "referring": {"mean",
  "interval"}}}}, intervals being 95 % percentile bootstraps over clips.
  """
  generator = np.random.default_rng(seed)
  draws = generator.integers(0, len(texts), (resamples, len(texts)))
  result: dict[str, Any] = {}
  for mode in MODES:
    result[mode] = {}
    for name, said in (("matched", texts), ("shuffled", [texts[i] for i in order])):
      found = score(tracks, said, mode)
      result[mode][name] = {
        part: _estimate(found[:, i], draws)
        for i, part in enumerate(("action", "referring"))
      }
  return result


def _estimate(values: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
  """Mean and interval of what is not nan; None where all is."""
  if np.isnan(values).all():
    return {"mean": None, "interval": None}
  picked = values[draws]
  known = ~np.isnan(picked)
  means = np.where(known, picked, 0).sum(1)[known.any(1)] / known.sum(1)[known.any(1)]
  low, high = np.percentile(means, [2.5, 97.5])
  return {"mean": float(np.nanmean(values)), "interval": [float(low), float(high)]}
