# SPDX-License-Identifier: Apache-2.0
"""The caption grammar of CATER-GEN (MAGE, Hu et al. 2022), forwards and backwards.

A caption is one sentence for each object that acts, in object order; every sentence
begins with a space. Targets are cells of the ground: a cell k > 0 is (k-1,k], a cell
k < 0 is (k,k+1].

Of ours is a second kind, which says what is there and not what moves: see `appearance`.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.data.procedural.cater.scene import Thing
from lamd_jax.errors import ConfigError

_QUADRANTS = ("first", "second", "third", "fourth")
_COMMON = (
  "[PAD]", "[CLS]", "[SEP]", "(", ")", ",", ".", "-3", "-2", "-1", "1", "2", "3",
  "the", "is", "sliding", "to", "rotating", "picked", "up", "and", "placed",
  "containing", *_QUADRANTS, "quadrant", "cone", "snitch",
)  # fmt: skip
_ATTRIBUTES = (
  *(name for name in shapes.NAMES if name not in _COMMON),
  *scenes.SIZES, *scenes.COLOUR_NAMES, *scenes.MATERIALS,
)  # fmt: skip
_TOKEN = re.compile(r"\s*(-?\d+|[a-zA-Z]+|\S)")
_NOUN = r"the ((?:[a-z]+ )*?[a-z]+)"
_PLACE = r"(?:\( (-?\d) , (-?\d) \)|the (\w+) quadrant)"
_VERBS = {
  actions.SLIDE: re.compile(rf"{_NOUN} is sliding to {_PLACE}"),
  actions.ROTATE: re.compile(rf"{_NOUN} is rotating"),
  actions.PICK_PLACE: re.compile(rf"{_NOUN} is picked up and placed to {_PLACE}"),
  actions.CONTAIN: re.compile(rf"{_NOUN} is picked up and containing {_NOUN}"),
}
_SNITCH = shapes.NAMES[shapes.SNITCH]
_THING = re.compile(
  "a ({}) ({}) ({}) ({})".format(
    "|".join(scenes.SIZES),
    "|".join(name for name in scenes.COLOUR_NAMES if name != "gold"),
    "|".join(scenes.MATERIALS),
    "|".join(name for name in shapes.NAMES if name != _SNITCH),
  )
)


class Sentence(NamedTuple):
  """What a sentence claims. Attribute words end in the shape, e.g. ("red", "cone")."""

  subject: tuple[str, ...]
  action: int  # into actions.NAMES
  cell: tuple[int, int] | None = None  # explicit target
  quadrant: int | None = None  # ambiguous target, 0 to 3
  contained: tuple[str, ...] = ()


def vocabulary(mode: str) -> tuple[str, ...]:
  """Returns all tokens of a mode, special ones first: 30 for v1, 47 for the others."""
  return _COMMON if mode == "v1" else _COMMON + _ATTRIBUTES


def cell(value: float) -> int:
  """Returns the cell of a coordinate in (-3,3], in {-3,-2,-1,1,2,3}."""
  return math.ceil(value - 1) if value <= 0 else math.ceil(value)


def cell_centre(k: int) -> float:
  return k - 0.5 if k > 0 else k + 0.5


def quadrant(x: float, y: float) -> int:
  """Returns 0 to 3, anticlockwise from x, y >= 0."""
  if y >= 0:
    return 0 if x >= 0 else 1
  return 3 if x >= 0 else 2


def write(
  things: tuple[Thing, ...],
  action: np.ndarray,
  partner: np.ndarray,
  final: np.ndarray,
  mode: str,
  draw: np.random.Generator | None = None,
) -> str:
  """Returns the caption: explicit, or ambiguous where `draw` is given.

  Args:
    things: K objects.
    action: [K] into actions.NAMES.
    partner: [K] object to be contained, -1.
    final: [K,2] where each object is in the last frame.
    mode: `v1` names objects by shape alone.
    draw: chooses the words of ambiguous references.
  """
  text = ""
  for k in range(len(things)):
    noun = _noun(things[k], mode, draw) if action[k] in _VERBS else ""
    x, y = float(final[k, 0]), float(final[k, 1])
    place = f"({cell(x)}, {cell(y)})"
    if draw is not None:
      place = f"the {_QUADRANTS[quadrant(x, y)]} quadrant"
    if action[k] == actions.SLIDE:
      text += f" {noun} is sliding to {place}."
    elif action[k] == actions.ROTATE:
      text += f" {noun} is rotating."
    elif action[k] == actions.PICK_PLACE:
      text += f" {noun} is picked up and placed to {place}."
    elif action[k] == actions.CONTAIN:
      contained = _noun(things[partner[k]], mode, draw)
      text += f" {noun} is picked up and containing {contained}."
  return text


def _noun(thing: Thing, mode: str, draw: np.random.Generator | None) -> str:
  shape = shapes.NAMES[thing.shape]
  if mode == "v1":
    return f"the {shape}"
  parts = [
    scenes.SIZES[thing.size],
    scenes.COLOUR_NAMES[thing.colour],
    scenes.MATERIALS[thing.material],
  ]
  if draw is not None:
    order = np.argsort([draw.random() for _ in parts])
    parts = [parts[i] for i in order[: scenes.pick(draw, 4)]]
  return " ".join(["the", *parts, shape])


def words(caption: str) -> list[str]:
  """Returns the tokens of a caption in order, of the closed vocabulary.

  Raises ConfigError for a word that no caption holds.
  """
  tokens = _TOKEN.findall(caption)
  known = _COMMON[3:] + _ATTRIBUTES
  for token in tokens:
    if token not in known:
      raise ConfigError(f"{token!r} is in no cater caption: use {' '.join(known)}")
  return tokens


def parse(caption: str) -> list[Sentence]:
  """Returns what the sentences of a caption claim, in their order.

  Raises ConfigError for a sentence outside the grammar.
  """
  text = " ".join(words(caption))
  sentences = []
  for part in filter(None, (p.strip() for p in text.split("."))):
    for action, pattern in _VERBS.items():
      if found := pattern.fullmatch(part):
        sentences.append(_sentence(action, *found.groups()))
        break
    else:
      raise ConfigError(
        f"{part!r} is no sentence of cater: write for example"
        " 'the cone is sliding to (2, -1).'"
      )
  return sentences


def _sentence(action: int, subject: str, *rest: str | None) -> Sentence:
  noun = tuple(subject.split())
  if action == actions.CONTAIN:
    return Sentence(noun, action, contained=tuple(rest[0].split()))
  if action == actions.ROTATE:
    return Sentence(noun, action)
  x, y, name = rest
  if name is None:
    return Sentence(noun, action, cell=(int(x), int(y)))
  return Sentence(noun, action, quadrant=_QUADRANTS.index(name))


def appearance(things: tuple[Thing, ...]) -> str:
  """Returns e.g. " a medium red metal cone and the snitch.", whatever moves.

  Objects come in their order; the snitch, which is always there and always looks the
  same, comes last, where a tokenizer that is too short loses it first.
  """
  others = [thing for thing in things if thing.shape != shapes.SNITCH]
  listed = ", ".join(
    f"a {scenes.SIZES[thing.size]} {scenes.COLOUR_NAMES[thing.colour]}"
    f" {scenes.MATERIALS[thing.material]} {shapes.NAMES[thing.shape]}"
    for thing in others
  )
  return f" {listed} and the {_SNITCH}."


def parse_appearance(caption: str) -> np.ndarray:
  """Returns what an `appearance` caption claims, as `attributes` of a world's state.

  That is [K,4] uint8: shape, size, colour and material of every object in record
  order, the snitch first. Raises ConfigError for any other text.
  """
  listed, the, rest = " ".join(caption.split()).lower().partition(f" and the {_SNITCH}")
  found = [_THING.fullmatch(part) for part in listed.split(", ")]
  if not the or rest not in ("", ".") or not all(found):
    raise ConfigError(
      f"{caption.strip()!r} does not say what is there as cater does: write for example"
      " 'a medium red metal cone and the snitch.'"
    )
  gold, metal = scenes.COLOUR_NAMES.index("gold"), scenes.MATERIALS.index("metal")
  rows = [(shapes.SNITCH, scenes.SIZES.index("small"), gold, metal)]
  for match in found:
    size, colour, material, shape = match.groups()
    rows.append((
      shapes.NAMES.index(shape), scenes.SIZES.index(size),
      scenes.COLOUR_NAMES.index(colour), scenes.MATERIALS.index(material),
    ))  # fmt: skip
  return np.array(rows, np.uint8)
