# SPDX-License-Identifier: Apache-2.0
"""Retrieval: ranks worked out by hand, ties, equal captions, chance."""

import numpy as np
import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import retrieval

# Cosines of the first query with the three pictures: 0.6, 1, 0.
IMAGES = np.array([[0.6, 0.8], [1.0, 0.0], [0.0, 2.0]])
QUERIES = np.array([[5.0, 0.0], [1.0, 0.0], [1.0, 0.0]])


def _report(queries, images, captions, resamples=0):
  return retrieval.report(queries, images, captions, resamples=resamples, seed=0)


def test_ranks_by_hand():
  found = retrieval.ranks(QUERIES, IMAGES, ("a", "b", "c"))
  np.testing.assert_array_equal(found.better, [1, 0, 2])
  np.testing.assert_array_equal(found.rank(), [2, 1, 3])
  result = _report(QUERIES, IMAGES, ("a", "b", "c"))
  assert result["recall@1"]["value"] == pytest.approx(1 / 3)
  assert result["recall@5"]["value"] == 1 and result["median_rank"]["value"] == 2
  assert result["recall@1"]["chance"] == pytest.approx(1 / 3)
  assert result["recall@1"]["interval"] is None and result["queries"] == 3


def test_pictures_with_the_same_caption_do_not_count_against_each_other():
  found = retrieval.ranks(QUERIES, IMAGES, ("a", "a", "c"))
  np.testing.assert_array_equal(found.better, [0, 0, 2])
  np.testing.assert_array_equal(found.candidates, [2, 2, 3])
  np.testing.assert_array_equal(retrieval.chance(found).rank(), [1.5, 1.5, 2])


def test_a_constant_embedding_scores_chance():
  """All ties: 1 of 8 and 5 of 8 by luck, mean rank 4.5."""
  draw = np.random.default_rng(0)
  images = np.tile(draw.standard_normal(4), (8, 1))
  images *= draw.uniform(0.1, 10, (8, 1))  # equal cosines all the same
  result = _report(draw.standard_normal((8, 4)), images, range(8))
  for name, value in (("recall@1", 1 / 8), ("recall@5", 5 / 8), ("median_rank", 4.5)):
    assert result[name]["value"] == result[name]["chance"] == pytest.approx(value)


def test_chance_is_what_random_queries_score():
  draw = np.random.default_rng(1)
  captions = draw.integers(0, 20, 400)  # twenty texts, about twenty pictures each
  normal = lambda: draw.standard_normal((400, 8))
  result = _report(normal(), normal(), captions.tolist(), 200)
  # 5 of about 381: three standard errors of a share of 400 are 0.017.
  assert result["recall@5"]["chance"] == pytest.approx(5 / 381, rel=0.02)
  assert abs(result["recall@5"]["value"] - 5 / 381) < 0.017
  low, high = result["median_rank"]["interval"]
  assert low < result["median_rank"]["value"] < high
  assert abs(result["median_rank"]["value"] - 191) < 0.15 * 381


def test_the_interval_covers_the_truth():
  """Queries right with probability 0.7: 95 % intervals of 100 of them must cover it in
  at least 85 of 100 trials, and be about 2 x 1.96 sqrt(0.21 / 100) = 0.18 wide."""
  draw = np.random.default_rng(2)
  covered, widths = 0, []
  images = np.eye(100)
  for _ in range(100):
    right = draw.random(100) < 0.7
    queries = np.where(right[:, None], images, np.roll(images, 1, 0))
    low, high = _report(queries, images, range(100), 300)["recall@1"]["interval"]
    covered += low <= 0.7 <= high
    widths.append(high - low)
  assert covered >= 85 and np.mean(widths) == pytest.approx(0.18, abs=0.02)


def test_bad_input_is_an_error():
  with pytest.raises(DataError, match=r"queries are \(2, 2\).*captions 3"):
    retrieval.ranks(QUERIES[:2], IMAGES, "abc")
  with pytest.raises(DataError, match="zero in some row"):
    retrieval.ranks(0 * QUERIES, IMAGES, "abc")
