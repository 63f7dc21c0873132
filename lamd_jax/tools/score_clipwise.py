# SPDX-License-Identifier: Apache-2.0
"""Scores that each clip has by itself: CLIP, pairs, captions, warping, neighbours.

A score is the mean over clips. Beside the fakes' row stand real clips where they are
given, a floor or a ceiling, and a trivial baseline; each row says what it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

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
from lamd_jax.evaluation import image_quality
from lamd_jax.evaluation import motion
from lamd_jax.evaluation import scoring
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.interchange import clip_image as image_weights
from lamd_jax.interchange import clip_text as text_weights
from lamd_jax.interchange import perceptual as perceptual_weights
from lamd_jax.networks import clip_image
from lamd_jax.networks import clip_text
from lamd_jax.tools import conversion
from lamd_jax.tools import score_inputs
from lamd_jax.training.console import Console

Row = dict[str, np.ndarray]  # title of a score -> its values [N]
_REAL, _STILL = "real clips", "baseline: first frame repeated"
_OTHER_CAPTIONS = "floor: captions of other clips"


class Clips:
  """A set of clips, read one by one as often as it takes; it notes how they move."""

  def __init__(self, protocol: Protocol, path: str, what: str):
    """Args: the protocol, a folder or npz file, and "reals" or "fakes"."""
    self.path, self._protocol, self._what = path, protocol, what
    self.source = score_inputs.open_clips(path, what[:-1])
    self.stride = {"reals": protocol.stride, "fakes": protocol.fake_stride}[what]
    where, _ = clip_sources.places(
      self.source, protocol.frames, self.stride, "first", 0, 0
    )
    self.where = where[: score_inputs.enough(protocol, what, path, len(where))]
    self.names = [self.source.names[place.video] for place in self.where]
    self._moves: list[np.ndarray] = []

  def __iter__(self) -> Iterator[np.ndarray]:
    self._moves = []
    console = Console(f"score: {self._what}", len(self.where))
    protocol = self._protocol
    try:
      for i, clip in enumerate(clip_sources.clips(
        self.source, self.where, protocol.frames, self.stride, protocol.pixels
      )):  # fmt: skip
        self._moves.append(np.array(motion.statistics(clip)[:-1]))
        yield clip
        console.advance(i + 1)
    finally:
      console.line()  # an error starts a line of its own

  def about(self) -> dict[str, Any]:
    moves = np.stack(self._moves)
    digest = self.source.digest()
    return score_inputs.about(self.path, self.source, self.where, moves, digest)


class Found(NamedTuple):
  """What a part hands back."""

  rows: dict[str, Row]
  weights: str  # digest of the files of weights, or "none"
  sets: dict[str, Clips]  # real, fake: whose motion is reported


def _sets(protocol: Protocol, options: argparse.Namespace) -> dict[str, Clips]:
  """The fakes, and the reals if they are given."""
  sets = {"fake": Clips(protocol, options.fake, "fakes")}
  if options.real:
    sets["real"] = Clips(protocol, options.real, "reals")
  return sets


def _derange(count: int, seed: int) -> np.ndarray:
  return caption_following.derangement(np.random.default_rng(seed), count)


# --- CLIP


def _texts(name: str, options: argparse.Namespace, clips: Clips) -> np.ndarray | None:
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


def _clip_row(label: str, frames: np.ndarray, texts: np.ndarray | None) -> Row:
  """Args: the network's name, features [N,T,D], captions [N,D] or None."""
  row = {
    f"frame consistency (CLIP {label})": clip_scores.frame_consistency(frames),
    f"background consistency (CLIP {label})": clip_scores.background_consistency(frames),
  }
  if texts is not None:
    row[f"CLIPSIM, prompt consistency (CLIP {label})"] = clip_scores.clipsim(texts, frames)
  return row


def _clip(protocol: Protocol, options: argparse.Namespace) -> Found:
  name = protocol.extractor.removeprefix("clip_")
  label = {"b32": "ViT-B/32", "l14": "ViT-L/14", "h14": "ViT-H/14"}[name]
  network = clip_image.NETWORKS[name]
  params = image_weights.load(options.weights or "--weights=FILE", network)
  sets = _sets(protocol, options)
  texts = _texts(name, options, sets["fake"])

  def features(clips: Clips) -> np.ndarray:
    return np.concatenate([
      clip_frames.features(network, params, clip[None], options.batch) for clip in clips
    ])

  made = features(sets["fake"])
  rows = {"fakes": _clip_row(label, made, texts)}
  if texts is not None:
    others = texts[_derange(len(texts), options.seed)]
    title = f"CLIPSIM, prompt consistency (CLIP {label})"
    rows[_OTHER_CAPTIONS] = {title: clip_scores.clipsim(others, made)}
  rows[_STILL] = _clip_row(label, np.repeat(made[:, :1], made.shape[1], 1), texts)
  if "real" in sets:
    rows[_REAL] = _clip_row(label, features(sets["real"]), None)
  paths = [p for p in (options.weights, options.text_weights) if p]
  return Found(rows, " ".join(conversion.sha256(_path(p)) for p in paths), sets)


def _path(name: str) -> Any:
  return caption_files.pathlib.Path(name).expanduser()


# --- Pairs


Function = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pairs(
  protocol: Protocol, real: clip_sources.Source, fake: clip_sources.Source,
  fakes: list[clip_sources.Place], more: dict[str, Function] | None = None,
) -> dict[str, Row]:  # fmt: skip
  """Scores fakes against originals, and originals whose first frame is repeated.

  The fake of video i belongs to real video i, in order of names. Clips without any
  error have no PSNR and are left out of its mean.
  """
  if len(real.names) < len(fakes):
    raise DataError(f"pairs: {len(real.names)} real videos for {len(fakes)} fakes")
  originals = [clip_sources.Place(place.video, 0) for place in fakes]
  read = lambda source, where, stride: clip_sources.clips(
    source, where, protocol.frames, stride, protocol.pixels
  )
  functions = image_quality.PAIRED | (more or {})
  rows = {name: {key: [] for key in functions} for name in ("fakes", _STILL)}
  both = zip(
    read(real, originals, protocol.stride), read(fake, fakes, protocol.fake_stride)
  )
  for a, b in both:
    still = scoring.repeat_first_frame(a)
    for key, function in functions.items():
      rows["fakes"][key].append(float(function(a[None], b[None])[0]))
      rows[_STILL][key].append(float(function(a[None], still[None])[0]))
  return {
    name: {k: np.array(v)[np.isfinite(v)] for k, v in row.items() if np.isfinite(v).any()}
    for name, row in rows.items()
  }


def _pairs(protocol: Protocol, options: argparse.Namespace) -> Found:
  more: dict[str, Function] = {}
  digest = "none"
  if protocol.extractor == "pairs_lpips":
    if not options.weights or not _path(options.weights).is_file():
      what = " ".join(perceptual_weights.how_to_get(options.weights).split())
      raise perceptual_weights.WeightsError(what)
    params = jax.device_put(perceptual_weights.load(_path(options.weights)))
    digest = conversion.sha256(_path(options.weights))
    more["LPIPS (VGG16, 0.1)"] = lambda a, b: image_quality.lpips(
      params, a, b, options.batch
    )
  real = score_inputs.open_clips(options.real, "real")
  fakes = Clips(protocol, options.fake, "fakes")
  for _ in fakes:
    pass  # notes their motion
  rows = pairs(protocol, real, fakes.source, fakes.where, more)
  return Found(rows, digest, {"fake": fakes})


# --- Captions of generated clips


def _captions(protocol: Protocol, options: argparse.Namespace) -> Found:
  """--captions: what clips were made from; --fake: a captioner's file, or the clips.

  Clips must be of the procedural world, `cater` v1: a tracker then writes their captions.
  """
  mode = protocol.extractor.removeprefix("captions_")
  if not options.captions:
    raise ConfigError("--captions is missing: the captions that the clips were made from")
  true = caption_files.read(options.captions)
  sets: dict[str, Clips] = {}
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
    sets["fake"] = Clips(protocol, options.fake, "fakes")
    made = _tracked(sets["fake"])
    asked = caption_files.for_clips(true, sets["fake"].names)
  if len(asked) < 2:
    raise DataError(f"{options.fake}: {len(asked)} captions; 2 at least are needed")

  def row(asked: Iterable[str], made: Iterable[str]) -> Row:
    found = [caption_precision.precision(a, b, mode) for a, b in zip(asked, made)]
    action, words = np.array(found).T
    return {
      f"action precision ({mode})": action,
      f"referring-expression precision ({mode})": words,
    }

  order = _derange(len(asked), options.seed)
  rows = {"fakes": row(asked, made), _OTHER_CAPTIONS: row([asked[i] for i in order], made)}
  if options.real:
    sets["real"] = Clips(protocol, options.real, "reals")
    texts = caption_files.for_clips(true, sets["real"].names)
    rows["ceiling: real clips, tracked"] = row(texts, _tracked(sets["real"]))
  return Found(rows, "none", sets)


def _tracked(clips: Clips) -> list[str]:
  found = []
  for clip in clips:
    if clip.shape[1] != clip.shape[2]:
      raise DataError(f"{clips.path}: frames are not square; the tracker knows cater v1")
    (tracks,) = caption_following.track(clip[None])
    found.append(caption_precision.from_track(tracks))
  return found


# --- Without any network


def _warp(protocol: Protocol, options: argparse.Namespace) -> Found:
  title = "warp error (block matching), grey levels"

  def errors(clips: Iterable[np.ndarray]) -> Row:
    found = [motion.warp_error(c, motion.block_matching(c)) for c in clips]
    return {title: np.array(found)}

  sets = _sets(protocol, options)
  rows = {"fakes": errors(sets["fake"])}
  shuffled = (scoring.shuffle_frames(clip) for clip in sets["fake"])
  rows["baseline: frames shuffled"] = errors(shuffled)
  if "real" in sets:
    rows[_REAL] = errors(sets["real"])
  return Found(rows, "none", sets)


def _neighbours(protocol: Protocol, options: argparse.Namespace) -> Found:
  title = "distance to the nearest training clip, grey levels"
  sets = {"fake": Clips(protocol, options.fake, "fakes"),
          "real": Clips(protocol, options.real, "reals")}  # fmt: skip
  small = lambda clips: np.concatenate([motion.thumbnails(c[None]) for c in clips])
  ours, training = small(sets["fake"]), small(sets["real"])
  if ours.shape[1] != training.shape[1]:
    raise DataError("fakes and training clips have different numbers of frames")
  half = min(len(ours), len(training) // 2)
  a, b = training[:half], training[half:]
  rows = {
    "fakes": {title: motion.nearest(ours, [training]).distance},
    "floor: training clips to the others": {title: motion.nearest(a, [b]).distance},
  }
  return Found(rows, "none", sets)


# Extractor -> what scores clips with it.
PARTS: dict[str, Callable[[Protocol, argparse.Namespace], Found]] = {
  "clip_b32": _clip, "clip_l14": _clip, "clip_h14": _clip, "pairs": _pairs,
  "pairs_lpips": _pairs, "captions_mage": _captions, "captions_strict": _captions,
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
