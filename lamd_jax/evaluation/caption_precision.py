# SPDX-License-Identifier: Apache-2.0
"""Action and referring-expression precision of CATER-GEN (MAGE, Hu et al. 2022).

A captioner describes generated clips; its captions are compared with those that the
clips were made from. In `mage` mode the rules are those of MAGE's published script,
its leniencies included: what a caption adds costs nothing, nor does a sentence that is
missing beside another. `strict` mode charges both. The two are different scores.

The parser looks for words and not for grammar, since captioners write what they like.
`from_track` writes the caption of a clip of the procedural world from what its objects
were seen to do: then no captioner stands between the clip and its score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import itertools
import re
from typing import NamedTuple

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.errors import DataError
from lamd_jax.evaluation import cater_tracker
from lamd_jax.evaluation.cater_tracker import Track

MODES = ("mage", "strict")
# 5 shapes, 3 sizes, 2 materials, 9 colours.
ATTRIBUTES = frozenset(
  (*shapes.NAMES, *scenes.SIZES, *scenes.MATERIALS, *scenes.COLOUR_NAMES)
)
_QUADRANTS = ("first", "second", "third", "fourth")
_MOTIONS = {"sliding": "slide", "placed": "pick-place", "containing": "pick-contain"}
_VERBS = frozenset((*_MOTIONS, "rotating", "picked"))
_WORD = re.compile(r"-?\d+|[a-z]+")
_SPECIAL = re.compile(r"\[(?:sep|cls|pad)\]")
_MINUS = re.compile(r"-\s+(?=\d)")  # captioners' tokenizers set it apart: "( - 3, 2 )"
_COUNTED = 2  # sentences that mage mode reads
_MOST = 6  # sentences of a caption that strict mode can match in all orders

Target = tuple[int, int] | str | None  # a cell, a quadrant's name, or nothing


class Sentence(NamedTuple):
  """What a sentence says, as far as it is scored."""

  subject: frozenset[str]  # of ATTRIBUTES
  motion: str  # slide | rotate | pick-place | pick-contain | none
  target: Target = None
  contained: frozenset[str] = frozenset()


class Counts(NamedTuple):
  """Hits and misses; they add up."""

  attribute_hits: int = 0
  attribute_misses: int = 0
  action_hits: int = 0
  action_misses: int = 0


class Precision(NamedTuple):
  """Of one clip, each in [0,1]."""

  action: float
  attribute: float  # of referring expressions


def parse(caption: str) -> list[Sentence]:
  """Returns what the sentences of a caption say, in their order."""
  parts = _MINUS.sub("-", _SPECIAL.sub(" ", caption.lower())).split(".")
  found = [_WORD.findall(part) for part in parts]
  return [_sentence(words) for words in found if words]


def _named(words: Sequence[str]) -> frozenset[str]:
  return ATTRIBUTES.intersection(words)


def _sentence(words: Sequence[str]) -> Sentence:
  verbs = [i for i, word in enumerate(words) if word in _VERBS]
  if not verbs:
    return Sentence(_named(words), "none")
  subject = _named(words[: verbs[0]])
  if words[verbs[0]] == "rotating":
    return Sentence(subject, "rotate")
  motion = _MOTIONS.get(words[verbs[-1]], "none")
  after = words[verbs[-1] + 1 :]
  if motion == "pick-contain":
    return Sentence(subject, motion, contained=_named(after))
  numbers = [int(word) for word in after if word.lstrip("-").isdigit()]
  if len(numbers) >= 2:
    return Sentence(subject, motion, (numbers[0], numbers[1]))
  quadrants = [word for word in after if word in _QUADRANTS]
  return Sentence(subject, motion, quadrants[0] if quadrants else None)


def _as_asked(target: Target, asked: Target) -> Target:
  """A cell becomes its quadrant where a quadrant was asked for; 0 counts as positive."""
  if isinstance(asked, str) and isinstance(target, tuple):
    x, y = target
    return _QUADRANTS[(0 if x >= 0 else 1) if y >= 0 else (3 if x >= 0 else 2)]
  return target


def compare(true: Sentence, made: Sentence, mode: str) -> Counts:
  """Counts one sentence of the captioner against one that is true."""
  hits = len(true.subject & made.subject)
  misses = len(true.subject) - hits
  if mode == "strict":
    misses += len(made.subject - true.subject)
  if true.motion != made.motion:
    if mode == "strict":
      misses += len(true.contained)
    return Counts(hits, misses, 0, 1)
  right, wrong = 1, 0
  if true.motion in ("slide", "pick-place"):
    met = _as_asked(made.target, true.target) == true.target
    right, wrong = right + met, wrong + (not met)
  if true.motion == "pick-contain":
    held = len(true.contained & made.contained)
    hits, misses = hits + held, misses + len(true.contained) - held
    if mode == "strict":
      misses += len(made.contained - true.contained)
  return Counts(hits, misses, right, wrong)


def _alone(sentence: Sentence) -> Counts:
  """What strict mode charges for a sentence without a partner."""
  return Counts(0, len(sentence.subject) + len(sentence.contained), 0, 1)


def _pairings(
  true: Sequence[Sentence], made: Sequence[Sentence], mode: str
) -> Iterator[Counts]:
  """Yields the summed counts of every way to match the sentences."""
  swapped = len(true) > len(made)
  short, long = (made, true) if swapped else (true, made)
  for order in itertools.permutations(range(len(long)), len(short)):
    pairs = [(short[i], long[k]) for i, k in enumerate(order)]
    counts = [compare(*(pair[::-1] if swapped else pair), mode) for pair in pairs]
    if mode == "strict":
      counts += [_alone(long[k]) for k in set(range(len(long))) - set(order)]
    yield Counts(*map(sum, zip(*counts)))


def _precision(counts: Counts) -> Precision:
  ratio = lambda hits, misses: hits / (hits + misses) if hits + misses else float("nan")
  return Precision(ratio(*counts[2:]), ratio(*counts[:2]))


def precision(true: str, made: str, mode: str) -> Precision:
  """Scores a captioner's caption of a clip.

  Args:
    true: the caption that the clip was made from.
    made: what the captioner said; "" scores 0 and 0.
    mode: one of MODES.

  Raises:
    DataError: the true caption names no object or says nothing; it has too many
      sentences.
  """
  asked, said = parse(true), parse(made)
  if not asked or not all(sentence.subject for sentence in asked):
    raise DataError(f"{true!r} names no object of CATER-GEN; is it a true caption?")
  if not said:
    return Precision(0.0, 0.0)
  if mode == "mage":
    asked, said = asked[:_COUNTED], said[:_COUNTED]
  longest = max(len(asked), len(said))
  if longest > _MOST:
    raise DataError(f"a caption of {longest} sentences; {_MOST} at most are scored")
  # Higher action precision wins, then higher attribute precision.
  return max(map(_precision, _pairings(asked, said, mode)))


def from_track(tracks: Sequence[Track]) -> str:
  """Writes the caption of a `cater` v1 clip from what its objects were seen to do.

  Args:
    tracks: one each of `cater_tracker.OBJECTS`.
  """
  text = ""
  for k, (name, track) in enumerate(zip(cater_tracker.OBJECTS, tracks, strict=True)):
    other = cater_tracker.OBJECTS[1 - k]
    place = "({}, {})".format(*track.cell)
    text += {
      actions.SLIDE: f" the {name} is sliding to {place}.",
      actions.ROTATE: f" the {name} is rotating.",
      actions.PICK_PLACE: f" the {name} is picked up and placed to {place}.",
      actions.CONTAIN: f" the {name} is picked up and containing the {other}.",
    }.get(track.action, "")
  return text
