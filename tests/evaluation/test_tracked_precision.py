# SPDX-License-Identifier: Apache-2.0
"""Action and referring-expression precision; counts by hand, after MAGE's rules."""

import numpy as np
import pytest

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import caption_following
from lamd_jax.evaluation import caption_precision
from lamd_jax.evaluation import tracked_precision
from lamd_jax.evaluation.cater_tracker import Track

SLIDES = " the cone is sliding to (2, -1)."
TURNS = " the snitch is rotating."


def _compare(true, said, mode="mage"):
  return caption_precision.precision(true, said, mode)


@pytest.mark.parametrize(
  "said, expected",
  [
    (SLIDES, (1, 1)),
    (" the cone is sliding to (1, -1).", (1 / 2, 1)),  # the verb, not the target
    (" the cone is picked up and placed to (2, -1).", (0, 1)),  # the target is not asked
    (" the snitch is sliding to (2, -1).", (1, 0)),
    (" the snitch is rotating.", (0, 0)),
    ("", (0, 0)),
  ],
)
def test_one_sentence(said, expected):
  assert _compare(SLIDES, said) == expected


def test_two_sentences_are_matched_the_better_way():
  assert _compare(SLIDES + TURNS, TURNS + SLIDES) == (1, 1)
  # The right way round: rotating missed (0 of 1), sliding 2 of 2.
  assert _compare(SLIDES + TURNS, SLIDES + SLIDES.replace("cone", "snitch")) == (
    pytest.approx(2 / 3), 1,
  )  # fmt: skip


def test_missing_and_extra_sentences_cost_nothing_but_in_strict_mode():
  assert _compare(SLIDES + TURNS, TURNS) == (1, 1)
  assert _compare(TURNS, SLIDES + TURNS) == (1, 1)
  # One more verb and one more word that nothing answers.
  assert _compare(SLIDES + TURNS, TURNS, "strict") == (1 / 2, 1 / 2)
  assert _compare(TURNS, SLIDES + TURNS, "strict") == (1 / 2, 1 / 2)


def test_words_of_contained_objects_count_where_both_contain():
  true = " the large red cone is picked up and containing the small snitch."
  said = " the red cone is picked up and containing the gold snitch."
  # red, cone, snitch of large, red, cone, small, snitch.
  assert _compare(true, said) == (1, 3 / 5)
  # gold is extra.
  assert _compare(true, said, "strict") == (1, 3 / 6)
  assert _compare(true, " the large red cone is rotating.") == (0, 1)


def test_targets_in_words_are_met_by_any_cell_of_their_quarter():
  true = " the cone is sliding to the second quadrant."
  assert _compare(true, " the cone is sliding to (-2, 3).") == (1, 1)
  assert _compare(true, SLIDES) == (1 / 2, 1)
  assert _compare(true, true) == (1, 1)


def test_clips_without_a_caption_are_left_out():
  still = Track(np.zeros((2, 3)), np.ones(2, bool), np.zeros(2, bool), 0, (1, 1))
  turned = still._replace(action=actions.ROTATE)
  found = tracked_precision.score([(still, still), (turned, still)], ["", TURNS])
  np.testing.assert_array_equal(found, [[np.nan, np.nan], [1, 1]])
  with pytest.raises(ConfigError, match="1 captions for 2 clips"):
    tracked_precision.score([(still, still)] * 2, [""])


def test_true_clips_reach_the_ceiling_and_shuffled_captions_the_floor():
  samples = [Cater("v1").sample("test", i, 16, 64) for i in range(24)]
  tracks = caption_following.track(np.stack([s.video for s in samples]))
  texts = [s.caption for s in samples]
  order = caption_following.derangement(np.random.default_rng(0), len(texts))
  found = tracked_precision.compare(tracks, texts, order, resamples=200, seed=0)
  for mode in tracked_precision.MODES:
    matched, shuffled = found[mode]["matched"], found[mode]["shuffled"]
    assert min(matched[k]["mean"] for k in matched) > 0.9
    assert matched["action"]["interval"][0] > shuffled["action"]["interval"][1]
  # A captioner that always names both objects refers well whatever it says.
  assert found["mage"]["shuffled"]["referring"]["mean"] > 0.5
