# SPDX-License-Identifier: Apache-2.0
"""Scores of a trained model between floor and baselines, without pretrained weights.

Reconstruction is scored in dB against the repeated first frame. Generation is scored
by the Frechet distance of simple clip features to real clips, beside the floor (other
real clips) and two trivial baselines (each real clip's first frame repeated; decoded
random latents), each with a 95 % bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import numpy as np

from lamd_jax.evaluation import features
from lamd_jax.evaluation import frechet
from lamd_jax.evaluation import image_quality

PROTOCOL = {
  "name": "simple_clip_features",
  "version": 1,
  "features": features.NAMES,
  "scale": "standardised by the reference set",
  "distance": "squared Frechet, ddof 1, eigh in float64",
  "interval": "95 % percentile bootstrap over clips of both sets",
}


def protocol_hash() -> str:
  """Eight hex digits that change with the protocol."""
  text = json.dumps(PROTOCOL, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def repeat_first_frame(clips: np.ndarray) -> np.ndarray:
  """Returns clips [N,T,H,W,3] that stand still."""
  return np.repeat(clips[:, :1], clips.shape[1], axis=1)


def reconstruction(real: np.ndarray, rebuilt: np.ndarray) -> dict[str, Any]:
  """PSNR in dB, means over clips, of reconstructions and of the baseline."""
  ours = features.psnr(real, rebuilt)
  still = features.psnr(real, repeat_first_frame(real))
  spread = 1.96 * ours.std(ddof=1) / np.sqrt(len(ours))
  return {
    "psnr": float(ours.mean()),
    "psnr_interval": [float(ours.mean() - spread), float(ours.mean() + spread)],
    "psnr_repeated_first_frame": float(still.mean()),
    "clips": len(real),
  }


def first_frames(
  images: np.ndarray, candidates: Mapping[str, np.ndarray], resamples: int, seed: int
) -> dict[str, Any]:
  """PSNR, dB, and SSIM of clips' first frames [N,T,H,W,3] against given images.

  `images` [N,1,H,W,3] are what was to move. The candidate "another image" is theirs in
  another order, which any picture of the world reaches.
  """
  candidates = {**candidates, "another image": np.roll(images, -1, axis=0)}
  draws = np.random.default_rng(seed).integers(0, len(images), (resamples, len(images)))
  found: dict[str, Any] = {}
  for name, clips in candidates.items():
    found[name] = {}
    for key, measure in (("psnr", features.psnr), ("ssim", image_quality.ssim)):
      values = measure(images, clips[:, :1])
      low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
      found[name][key] = {
        "mean": float(values.mean()), "interval": [float(low), float(high)]
      }  # fmt: skip
  return found


def generation(
  reference: np.ndarray, candidates: Mapping[str, np.ndarray], resamples: int, seed: int
) -> dict[str, Any]:
  """Distances of each set of clips to `reference`, both [N,T,H,W,3] uint8.

  Returns {name: {"total","mean","covariance": value, "interval": {...}}}.
  """
  base = features.clip_features(reference)
  scores = {}
  for name, clips in candidates.items():
    a, b = frechet.standardise(base, features.clip_features(clips))
    scores[name] = {
      **frechet.distance(a, b)._asdict(),
      "interval": frechet.bootstrap(a, b, resamples, seed),
      "clips": len(clips),
    }
  return scores
