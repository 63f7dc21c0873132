# SPDX-License-Identifier: Apache-2.0
"""Do captions, and what Gen-1's prior makes of them, find the pictures they are of?

The prior leads from a text embedding to an image embedding; on held-out captions it is
measured by how often its own picture comes first among all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamd_jax import gallery
from lamd_jax.evaluation import retrieval
from lamd_jax.modes import edit_points

_SCORES = ("recall@1", "recall@5", "median_rank")


def measure(
  editor: edit_points.Editor,
  pictures: np.ndarray,
  texts: Sequence[str],
  tokens: np.ndarray,
  prior: bool,
  resamples: int,
  seed: int,
) -> dict[str, Any]:
  """Returns `retrieval.report` of the captions' own embeddings, and of the prior's.

  Args:
    editor: embeds.
    pictures: first frames [N,1,H,W,3] uint8.
    texts, tokens: their captions, and as ids [N,L] int32.
    prior: whether the run has one.
    resamples, seed: of the bootstrap.
  """
  images = editor.embed(pictures)[:, 0]
  queries = {"caption": editor.embed_texts(tokens)}
  if prior:
    queries["prior"] = editor.embed_by_prior(tokens)
  return {
    name: retrieval.report(rows, images, texts, resamples=resamples, seed=seed)
    for name, rows in queries.items()
  }


def table(found: Mapping[str, Any]) -> gallery.Table:
  rows = [
    [f"by its {name}", *(_cell(scores[score]) for score in _SCORES)]
    for name, scores in found.items()
  ]
  any_one = next(iter(found.values()))
  rows.append(["by chance", *(f"{any_one[score]['chance']:.3f}" for score in _SCORES)])
  return gallery.Table(
    "Pictures found",
    f"First frames of {any_one['queries']} held-out clips, ranked by the cosine with one"
    " caption's embedding, or with what the prior makes of it; frames with the same"
    " caption are left out. How often its own is first, among the first five, and its"
    " rank in the middle; 95 % bootstrap intervals.",
    ("", "first", "among five", "median rank"),
    rows,
  )


def _cell(score: Mapping[str, Any]) -> str:
  low, high = score["interval"]
  return f"{score['value']:.3f} [{low:.3f}, {high:.3f}]"
