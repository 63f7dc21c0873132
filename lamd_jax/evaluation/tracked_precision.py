# SPDX-License-Identifier: Apache-2.0
"""Caption precision of tracked `cater` v1 clips, with the tracker for a captioner.

The tracker writes what the objects were seen to do, `caption_precision` compares it with
the true captions, so that no captioner's mistakes are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import bootstrap
from lamd_jax.evaluation import caption_precision
from lamd_jax.evaluation.caption_precision import MODES
from lamd_jax.evaluation.cater_tracker import Track

_UNSCORED = (np.nan, np.nan)


def score(
  tracks: Sequence[tuple[Track, Track]], texts: Sequence[str], mode: str = "mage"
) -> np.ndarray:
  """Returns action and referring precision of tracked clips, [N,2] float64.

  A clip whose true caption is empty is not scored: nan.
  """
  if len(tracks) != len(texts):
    raise ConfigError(f"{len(texts)} captions for {len(tracks)} clips: give one each")
  if mode not in MODES:
    raise ConfigError(f"mode={mode}: choose one of {', '.join(MODES)}")
  rows = [
    caption_precision.precision(text, caption_precision.from_track(pair), mode)
    if text.strip()
    else _UNSCORED
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
        part: bootstrap.mean(found[:, i], draws)
        for i, part in enumerate(("action", "referring"))
      }
  return result
