# SPDX-License-Identifier: Apache-2.0
"""How well embeddings of captions find the pictures that the captions belong to.

Each query ranks all pictures by cosine. Its own picture's rank counts; other pictures
with the same caption are as right and are left out of that query's ranking. Ties are
broken by chance, and what is reported is the mean over all ways to break them, so a
constant embedding scores what chance does.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.errors import DataError

PROTOCOL = {
  "name": "caption_to_image_retrieval",
  "version": 1,
  "similarity": "cosine",
  "same_caption": "other pictures with the query's caption are left out",
  "ties": "mean over all orders",
  "interval": "95 % percentile bootstrap over queries, the pictures kept",
}
RECALLS = (1, 5)


class Ranks(NamedTuple):
  """Of each query's own picture, all [N] int64."""

  better: np.ndarray  # pictures that are more like the query
  tied: np.ndarray  # others that are exactly as like it
  candidates: np.ndarray  # pictures that were ranked, its own included

  def recall(self, k: int) -> np.ndarray:
    """Probability of each query that its picture is among the first k, [N] float64."""
    return np.clip((k - self.better) / (self.tied + 1), 0.0, 1.0)

  def rank(self) -> np.ndarray:
    """Mean rank over the orders of what is tied, from 1, [N] float64."""
    return 1 + self.better + self.tied / 2


def ranks(
  queries: np.ndarray, images: np.ndarray, captions: Sequence[Hashable]
) -> Ranks:
  """Ranks images [N,D] by their cosine with each query [N,D].

  Args:
    queries: row i belongs to image i; of captions, or drawn by a prior.
    images: embeddings of the pictures.
    captions: N texts, or anything that is equal where texts are.

  Raises:
    DataError: shapes that do not go together, rows that are zero or not finite.
  """
  if queries.ndim != 2 or queries.shape != images.shape or len(captions) != len(images):
    raise DataError(
      f"queries are {queries.shape}, images {images.shape}, captions {len(captions)};"
      " [N,D], [N,D] and N are due"
    )
  # Equal rows must give equal cosines, which a matrix product's blocking may not.
  similarity = np.einsum("nd,md->nm", _unit(queries), _unit(images)).round(10)
  numbers = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
  said = np.array([numbers[caption] for caption in captions])
  others = said[:, None] != said[None]
  own = np.diagonal(similarity)[:, None]
  return Ranks(
    better=(others & (similarity > own)).sum(1),
    tied=(others & (similarity == own)).sum(1),
    candidates=others.sum(1) + 1,
  )


def chance(found: Ranks) -> Ranks:
  """The ranks of a query that says nothing: all candidates are tied."""
  return Ranks(np.zeros_like(found.better), found.candidates - 1, found.candidates)


def report(
  queries: np.ndarray,
  images: np.ndarray,
  captions: Sequence[Hashable],
  *,
  resamples: int,
  seed: int,
) -> dict[str, Any]:
  """Scores queries [N,D] against images [N,D]; see `ranks`.

  Args:
    queries, images, captions: as in `ranks`.
    resamples: of the bootstrap; 0 gives no interval.
    seed: of the bootstrap.

  Returns:
    {"recall@1", "recall@5": shares in [0,1], "median_rank": from 1, each {"value",
    "interval", "chance"}; "queries": N, "protocol"}.
  """
  found = ranks(queries, images, captions)
  none = chance(found)
  count = len(images)
  draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
  result: dict[str, Any] = {}
  for k in RECALLS:
    result[f"recall@{k}"] = _summary(found.recall(k), none.recall(k), draws, np.mean)
  result["median_rank"] = _summary(found.rank(), none.rank(), draws, np.median)
  return {**result, "queries": count, "protocol": PROTOCOL}


def _summary(
  values: np.ndarray, chances: np.ndarray, draws: np.ndarray, statistic: Any
) -> dict[str, Any]:
  interval = None
  if len(draws):
    low, high = np.percentile(statistic(values[draws], axis=1), [2.5, 97.5])
    interval = [float(low), float(high)]
  return {
    "value": float(statistic(values)),
    "interval": interval,
    "chance": float(statistic(chances)),
  }


def _unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  if not np.isfinite(norm).all() or not (norm > 0).all():
    raise DataError("embeddings are not finite, or all zero in some row")
  return x / norm
