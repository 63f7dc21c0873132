# SPDX-License-Identifier: Apache-2.0
"""Scores that each clip has by itself: CLIP, pairs, captions, warping, neighbours.

A score is the mean over clips. Beside the fakes' row stand real clips where they are
given, a floor or a ceiling, and a trivial baseline; each row says what it is, and notes
say why one is missing.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from lamd_jax.data import tokenizers
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.evaluation import caption_files
from lamd_jax.evaluation import caption_following
from lamd_jax.evaluation import caption_precision
from lamd_jax.evaluation import clip_frames
from lamd_jax.evaluation import clip_scores
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation import motion
from lamd_jax.evaluation import scoring
from lamd_jax.evaluation import spread
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.interchange import clip_image as image_weights
from lamd_jax.interchange import clip_text as text_weights
from lamd_jax.networks import clip_image
from lamd_jax.networks import clip_text
from lamd_jax.tools import conversion
from lamd_jax.tools import paths
from lamd_jax.tools import score_cache
from lamd_jax.tools import score_clips
from lamd_jax.tools import score_inputs
from lamd_jax.tools import score_pairs

_OTHER_CAPTIONS = "floor: captions of other clips"
_COPIES = 64  # training clips that go through an mp4: encoding takes its time


# --- CLIP


def _texts(
  name: str, options: argparse.Namespace, clips: score_clips.Clips
) -> np.ndarray | None:
  """Pooled, projected captions [N,D]; None if none are given."""
  given = [options.captions, options.text_weights, options.vocabulary]
  if not any(given):
    return None
  if not all(given):
    raise ConfigError("CLIPSIM takes --captions, --text-weights and --vocabulary together")
  texts = caption_files.for_clips(caption_files.read(options.captions), clips.names)
  network = clip_text.NETWORKS[name]
  tokenize = tokenizers.Clip(options.vocabulary, network.length)
  params = {"params": text_weights.load(options.text_weights, network)}

  @jax.jit
  def pooled(tokens: jax.Array) -> jax.Array:
    hidden = network.apply(params, tokens)
    return network.apply(params, tokens, hidden, method=network.pooled)

  made, batch = [], 32
  for start in range(0, len(texts), batch):
    part = np.stack([tokenize(text) for text in texts[start : start + batch]])
    full = np.pad(part, ((0, batch - len(part)), (0, 0)), mode="edge")
    with jax.default_matmul_precision("highest"):
      made.append(np.asarray(pooled(full))[: len(part)])
  return np.concatenate(made)


def _clip_row(
  label: str, frames: np.ndarray, texts: np.ndarray | None
) -> score_clips.Row:
  """Args: the network's name, features [N,T,D], captions [N,D] or None."""
  row = {
    f"frame consistency (CLIP {label})": clip_scores.frame_consistency(frames),
    f"background consistency (CLIP {label})": clip_scores.background_consistency(frames),
  }
  if texts is not None:
    row[f"CLIPSIM, prompt consistency (CLIP {label})"] = clip_scores.clipsim(texts, frames)
  return row


def _clip(protocol: Protocol, options: argparse.Namespace) -> score_clips.Found:
  name = protocol.extractor.removeprefix("clip_")
  label = {"b32": "ViT-B/32", "l14": "ViT-L/14", "h14": "ViT-H/14"}[name]
  network = clip_image.NETWORKS[name]
  params = image_weights.load(options.weights or "--weights=FILE", network)
  sets = score_clips.sets(protocol, options)
  texts = _texts(name, options, sets["fake"])

  extract = clip_frames.Extractor(network, params, options.batch)
  cache = score_cache.Cache(options.cache)
  digest = conversion.sha256(paths.path(options.weights))
  features = lambda clips: clips.measured(cache, [digest], extract)
  made = features(sets["fake"])
  rows = {"fakes": _clip_row(label, made, texts)}
  if texts is not None:
    others = texts[score_clips.derange(len(texts), options.seed)]
    title = f"CLIPSIM, prompt consistency (CLIP {label})"
    rows[_OTHER_CAPTIONS] = {title: clip_scores.clipsim(others, made)}
  still = np.repeat(made[:, :1], made.shape[1], 1)
  rows[score_clips.STILL] = _clip_row(label, still, texts)
  if "real" in sets:
    rows[score_clips.REAL] = _clip_row(label, features(sets["real"]), None)
  if options.text_weights:
    digest += " " + conversion.sha256(paths.path(options.text_weights))
  return score_clips.Found(rows, digest, sets)


# --- Captions of generated clips


def _captions(protocol: Protocol, options: argparse.Namespace) -> score_clips.Found:
  """--captions: what clips were made from; --fake: a captioner's file, or the clips.

  Clips must be of the procedural world, `cater` v1: a tracker then writes their captions.
  """
  mode = protocol.extractor.removeprefix("captions_")
  if not options.captions:
    raise ConfigError("--captions is missing: the captions that the clips were made from")
  true = caption_files.read(options.captions)
  sets: dict[str, score_clips.Clips] = {}
  if options.fake.endswith(caption_files.SUFFIXES):
    read = caption_files.read(options.fake)
    names, made = read.names, read.texts
    if not any(names) or not any(true.names):
      if len(true.texts) != len(made):
        raise DataError(f"{len(true.texts)} true captions, {len(made)} of the captioner")
      asked = true.texts
    else:
      asked = caption_files.for_clips(true, names)
  else:
    sets["fake"] = score_clips.Clips(protocol, options.fake, "fakes")
    made = _tracked(sets["fake"])
    asked = caption_files.for_clips(true, sets["fake"].names)
  if len(asked) < 2:
    raise DataError(f"{options.fake}: {len(asked)} captions; 2 at least are needed")

  def row(asked: Iterable[str], made: Iterable[str]) -> score_clips.Row:
    found = [caption_precision.precision(a, b, mode) for a, b in zip(asked, made)]
    action, words = np.array(found).T
    return {
      f"action precision ({mode})": action,
      f"referring-expression precision ({mode})": words,
    }

  order = score_clips.derange(len(asked), options.seed)
  # A captioner that looks at nothing says this of each clip.
  (usual, _), = collections.Counter(asked).most_common(1)
  rows = {
    "fakes": row(asked, made),
    _OTHER_CAPTIONS: row([asked[i] for i in order], made),
    "baseline: one true caption for all clips": row(asked, [usual] * len(asked)),
  }
  if options.real:
    sets["real"] = score_clips.Clips(protocol, options.real, "reals")
    texts = caption_files.for_clips(true, sets["real"].names)
    rows["ceiling: real clips, tracked"] = row(texts, _tracked(sets["real"]))
  return score_clips.Found(rows, "none", sets)


def _tracked(clips: score_clips.Clips) -> list[str]:
  found = []
  for clip in clips:
    if clip.shape[1] != clip.shape[2]:
      raise DataError(f"{clips.path}: frames are not square; the tracker knows cater v1")
    (tracks,) = caption_following.track(clip[None])
    found.append(caption_precision.from_track(tracks))
  return found


# --- Without any network


def _warp(protocol: Protocol, options: argparse.Namespace) -> score_clips.Found:
  title = "warp error (block matching), grey levels"

  def errors(clips: Iterable[np.ndarray]) -> score_clips.Row:
    one = lambda clip: motion.warp_error(clip, motion.block_matching(clip))
    return {title: np.array(list(spread.over_processors(one, ((c,) for c in clips))))}

  sets = score_clips.sets(protocol, options)
  rows = {"fakes": errors(sets["fake"])}
  shuffled = (scoring.shuffle_frames(clip) for clip in sets["fake"])
  rows["baseline: frames shuffled"] = errors(shuffled)
  # Nothing moves, so the flow is 0 and each frame is the next.
  rows[score_clips.STILL] = {title: np.zeros(len(sets["fake"].where))}
  if "real" in sets:
    rows[score_clips.REAL] = errors(sets["real"])
  return score_clips.Found(rows, "none", sets)


def _neighbours(protocol: Protocol, options: argparse.Namespace) -> score_clips.Found:
  title = "distance to the nearest training clip, grey levels"
  sets = {"fake": score_clips.Clips(protocol, options.fake, "fakes"),
          "real": score_clips.Clips(protocol, options.real, "reals")}  # fmt: skip
  small = lambda clips: np.concatenate([motion.thumbnails(c[None]) for c in clips])
  ours, training = small(sets["fake"]), small(sets["real"])
  if ours.shape[1] != training.shape[1]:
    raise DataError("fakes and training clips have different numbers of frames")
  reals = clip_sources.clips(
    sets["real"].source, sets["real"].where[:_COPIES], protocol.frames, protocol.stride,
    protocol.pixels,
  )  # fmt: skip
  encoded = (score_pairs.through_mp4(clip) for clip in reals)
  half = min(len(ours), len(training) // 2)
  a, b = training[:half], training[half:]
  rows = {
    "fakes": {title: motion.nearest(ours, [training]).distance},
    "floor: training clips to the others": {title: motion.nearest(a, [b]).distance},
    "copies: training clips through an mp4 of ours": {
      title: motion.nearest(small(encoded), [training]).distance
    },
    "baseline: the mean of the training clips": {
      title: motion.nearest(training.mean(0, keepdims=True), [training]).distance
    },
  }
  return score_clips.Found(rows, "none", sets)


# Extractor -> what scores clips with it.
PARTS: dict[str, Callable[[Protocol, argparse.Namespace], score_clips.Found]] = {
  "clip_b32": _clip, "clip_l14": _clip, "clip_h14": _clip, "pairs": score_pairs.part,
  "pairs_lpips": score_pairs.part,
  "captions_mage": _captions, "captions_strict": _captions,
  "block_matching": _warp, "thumbnails": _neighbours,
}  # fmt: skip
_NEEDS_WEIGHTS = ("clip_b32", "clip_l14", "clip_h14", "pairs_lpips")


def report(protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
  """Returns the report as JSON holds it. Raises InputError; nothing was written."""
  if options.weights and protocol.extractor not in _NEEDS_WEIGHTS:
    raise ConfigError(f"--weights={options.weights}: {protocol.name} needs none")
  rows, weights, sets = PARTS[protocol.extractor](protocol, options)
  found = score_inputs.head(protocol, options, weights)
  found["interval"] = "95 % bootstrap over clips"
  reals = len(sets["real"].where) if "real" in sets else 0
  found["scores"] = {
    name: [
      scoring.mean(
        protocol, title, values, reals=reals, resamples=options.resamples,
        seed=options.seed,
      ).record()
      for title, values in row.items()
    ]
    for name, row in rows.items()
  }  # fmt: skip
  return found | {side: clips.about() for side, clips in sets.items()}
