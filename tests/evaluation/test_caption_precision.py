# SPDX-License-Identifier: Apache-2.0
"""Precisions by hand, rule by rule of MAGE's script as the specification tells it."""

import numpy as np
import pytest

from lamd_jax.data.procedural.cater import actions
from lamd_jax.errors import DataError
from lamd_jax.evaluation import caption_precision as precision
from lamd_jax.evaluation.cater_tracker import Track

SLIDE = "the large red metal cone is sliding to (2, -1)."
HOLD = "the medium green rubber cone is picked up and containing the small gold snitch."


def test_vocabulary_is_the_published_one():
  assert len(precision.ATTRIBUTES) == 19


def test_parse_reads_every_form():
  sentences = precision.parse(
    f"[CLS] {SLIDE} The blue cube is rotating. {HOLD} the sphere is picked up and"
    " placed to the third quadrant . a red cone [SEP]"
  )
  assert [s.motion for s in sentences] == [
    "slide", "rotate", "pick-contain", "pick-place", "none",
  ]  # fmt: skip
  assert sentences[0] == ({"large", "red", "metal", "cone"}, "slide", (2, -1), set())
  assert sentences[2].contained == {"small", "gold", "snitch"}
  assert sentences[3].target == "third" and sentences[4].subject == {"red", "cone"}
  assert precision.parse("[PAD] .") == []


# true, made, mage (action, attribute), strict: hits / (hits + misses) by hand.
CASES = {
  "the same": (SLIDE, SLIDE, (1, 1), (1, 1)),
  "another target": (SLIDE, SLIDE.replace("2", "3"), (1 / 2, 1), (1 / 2, 1)),
  "no target": (SLIDE, "the large red metal cone is sliding", (1 / 2, 1), (1 / 2, 1)),
  "another action": (SLIDE, "the large red metal cone is rotating", (0, 1), (0, 1)),
  # Of 4 words 3 are hit; "small" is an extra.
  "another size": (SLIDE, SLIDE.replace("large", "small"), (1, 3 / 4), (1, 3 / 5)),
  "an extra word": (
    "the cone is rotating.", "the red cone is rotating.", (1, 1), (1, 1 / 2)
  ),
  "nothing": (SLIDE, " .", (0, 0), (0, 0)),
  # 4 + 3 words, of which 4 + 2 are hit.
  "what it contains": (HOLD, HOLD.replace("gold", "blue"), (1, 6 / 7), (1, 6 / 8)),
  # Contained words count only in strict mode when the action is another.
  "not containing": (
    HOLD, "the medium green rubber cone is rotating.", (0, 1), (0, 4 / 7)
  ),
  "the other order": (f"{SLIDE} {HOLD}", f"{HOLD} {SLIDE}", (1, 1), (1, 1)),
  # Strict: 2 action hits and 1 miss; 4 word hits and 7 misses.
  "one of two": (f"{SLIDE} {HOLD}", SLIDE, (1, 1), (2 / 3, 4 / 11)),
  "two for one": (SLIDE, f"{HOLD} {SLIDE}", (1, 1), (2 / 3, 4 / 11)),
  "a third is not read": (SLIDE, f"{HOLD} {HOLD} {SLIDE}", (0, 1 / 4), None),
  "a quadrant": (
    "the cone is sliding to the fourth quadrant.", "the cone is sliding to (2, -1).",
    (1, 1), (1, 1),
  ),
  # As tokenizers write it, which MAGE's script joins again.
  "a minus set apart": (SLIDE, SLIDE.replace("(2, -1)", "( 2, - 1 )"), (1, 1), (1, 1)),
  "another quadrant": (
    "the cone is sliding to the first quadrant.", "the cone is sliding to (2, -1).",
    (1 / 2, 1), (1 / 2, 1),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_precision_by_hand(name):
  true, made, *expected = CASES[name]
  for mode, numbers in zip(precision.MODES, expected):
    if numbers is not None:
      assert precision.precision(true, made, mode) == pytest.approx(numbers), mode


def test_action_precision_decides_between_assignments():
  # By words the first pairing is better, by actions the second.
  true = "the red cone is rotating. the blue cube is sliding to (1, 1)."
  made = "the red cone is sliding to (1, 1). the blue cube is rotating."
  assert precision.precision(true, made, "mage") == (1, 0)


@pytest.mark.parametrize("true", ["", "it is rotating."])
def test_a_true_caption_without_object_is_refused(true):
  with pytest.raises(DataError, match="names no object"):
    precision.precision(true, SLIDE, "mage")


def test_tracks_become_captions_that_parse_back():
  track = lambda action, cell: Track(np.zeros((1, 3)), None, None, action, cell)
  text = precision.from_track(
    [track(actions.SLIDE, (2, -1)), track(actions.CONTAIN, (1, 1))]
  )
  assert text == (
    " the snitch is sliding to (2, -1). the cone is picked up and containing the snitch."
  )
  assert precision.precision(text, text, "strict") == (1, 1)
  still = [track(actions.STILL, (1, 1))] * 2
  assert precision.from_track(still) == ""
