# SPDX-License-Identifier: Apache-2.0
"""What tools.score does between reading its flags and printing: clips to a report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import pathlib
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation import extractors
from lamd_jax.evaluation import fvmd
from lamd_jax.evaluation import motion
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.evaluation import scoring
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.interchange import c3d as c3d_weights
from lamd_jax.interchange import i3d as i3d_weights
from lamd_jax.networks import c3d
from lamd_jax.networks import i3d
from lamd_jax.tools import conversion
from lamd_jax.tools import score_cache
from lamd_jax.tools import score_inputs
from lamd_jax.tools import score_pairs
from lamd_jax.training.console import Console

Change = Callable[[np.ndarray], np.ndarray]
SAME: Change = lambda clip: clip
HALVES = "disjoint halves, so at half the number"  # how the floor came about


class Made(NamedTuple):
  """What is known of a set of clips."""

  features: np.ndarray  # [N,D] float64
  moves: np.ndarray  # [N,5] float64, motion.Statistics without histograms
  colours: np.ndarray  # [3,16] mean histogram
  thumbs: np.ndarray  # [N,T*768] uint8, motion.thumbnails
  size: np.ndarray  # [2] height and width


def load_weights(protocol: Protocol, path: str) -> tuple[Any, str]:
  """Returns the network's parameters and a digest of them.

  Raises:
    WeightsError: the protocol needs a file that is not there or not the right one.
  """
  if protocol.extractor in extractors.RANDOM:
    if path:
      raise ConfigError(f"--weights={path}: {protocol.extractor} has weights of its own")
    return extractors.RANDOM[protocol.extractor](protocol), "fixed"
  params = LOADERS[protocol.extractor](protocol, path)
  return params, conversion.sha256(pathlib.Path(path).expanduser())


def _c3d(path: str) -> Any:
  params = c3d_weights.load(path)
  return {**params, "mean": c3d.crop_mean(params["mean"])}


# Extractor -> what reads its file.
LOADERS: dict[str, Callable[[Protocol, str], Any]] = {
  "i3d_kinetics400": lambda protocol, path: i3d_weights.load(
    path, i3d.I3D(protocol.epsilon)
  ),
  "c3d_ucf101": lambda protocol, path: _c3d(path),
}


class Run:
  """Extracts features under one protocol, once for each set of clips."""

  def __init__(self, protocol: Protocol, options: argparse.Namespace):
    params, self.weights = load_weights(protocol, options.weights)
    self._protocol = protocol
    self.extract = extractors.Extractor(protocol, params, options.batch)
    self._cache = score_cache.Cache(options.cache)
    self._digests: dict[int, str] = {}

  def digest(self, source: clip_sources.Source) -> str:
    if id(source) not in self._digests:
      self._digests[id(source)] = source.digest()
    return self._digests[id(source)]

  def __call__(
    self,
    name: str,
    source: clip_sources.Source,
    where: list[clip_sources.Place],
    stride: int,
    change: Change = SAME,
  ) -> Made:
    """Features and motion of the clips at `where`, each changed by `change`."""
    key = [
      self.digest(source), where, stride, self._protocol.extraction_hash(),
      self._protocol.pixels, self.weights, change.__name__,
    ]  # fmt: skip
    kept = self._cache.read(key, Made._fields, len(where))
    if kept is not None:
      print(f"{name}: {len(where)} clips, features from the cache")
      return Made(**kept)
    protocol, seen, thumbs, sizes = self._protocol, [], [], []

    def supply() -> Iterator[np.ndarray]:
      console = Console(f"score: {name}", len(where))
      clips = clip_sources.clips(source, where, protocol.frames, stride, protocol.pixels)
      try:
        for i, clip in enumerate(clips):
          clip = change(clip)
          seen.append(motion.statistics(clip))
          thumbs.append(np.rint(motion.thumbnails(clip[None])[0]).astype(np.uint8))
          sizes.append(clip.shape[1:3])
          yield clip
          console.advance(i + 1)
      finally:
        console.line()  # an error starts a line of its own

    features = np.concatenate(list(self.extract(supply())))
    moves = np.array([row[:-1] for row in seen])
    colours = motion.mean(seen).histogram
    made = Made(features, moves, colours, np.stack(thumbs), np.array(sizes[0]))
    self._cache.write(key, made._asdict())
    return made


class Reals(NamedTuple):
  """The reals that are scored against, and those that take the fakes' part."""

  where: list[clip_sources.Place]
  other: list[clip_sources.Place]
  how: str  # the others came about


def pick_reals(
  protocol: Protocol, source: clip_sources.Source, path: str, seed: int
) -> Reals:
  """Chooses reference clips and, for the floor, as many others as well as can be."""
  sampling = "first" if protocol.sampling == "first" else "random"
  place = lambda limit: clip_sources.places(
    source, protocol.frames, protocol.stride, sampling, limit, seed
  )
  several = protocol.sampling == "random_clips"
  everything, videos = place(0)
  if several and protocol.reals > videos:
    everything, _ = place(protocol.reals)
  # A video for each real and one for each other real; else second draws; else halves.
  count = score_inputs.enough(protocol, "reals", path, len(everything))
  if not protocol.reals and videos == count and sampling == "first":
    half = count // 2
    return Reals(everything[:count], everything[half : 2 * half], HALVES)
  longer, _ = place(2 * count)
  if len(longer) < 2 * count:
    half = count // 2
    return Reals(longer[:count], longer[half : 2 * half], HALVES)
  how = "other real videos" if 2 * count <= videos else "other draws of the same videos"
  return Reals(longer[:count], longer[count:], how)


def report(protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
  """Returns the report as JSON holds it.

  Raises:
    InputError: clips, weights or flags are wrong; nothing was written.
  """
  if protocol.extractor in protocol_lib.FROM_FILE:
    return _from_features(protocol, options)
  if protocol.splits:
    return _of_classes(protocol, options)
  fake = score_inputs.open_clips(options.fake, "fake")
  real = score_inputs.open_clips(options.real, "real")
  fakes, _ = clip_sources.places(
    fake, protocol.frames, protocol.fake_stride, "first", 0, 0
  )
  fakes = fakes[: score_inputs.enough(protocol, "fakes", options.fake, len(fakes))]
  reals = pick_reals(protocol, real, options.real, options.seed)
  run = Run(protocol, options)
  made = run("fakes", fake, fakes, protocol.fake_stride)
  found = score_inputs.head(protocol, options, run.weights)
  found["fake"] = score_inputs.about(
    options.fake, fake, fakes, made.moves, run.digest(fake)
  )
  base = run("reals", real, reals.where, protocol.stride)
  if (base.size != made.size).any():
    raise DataError(
      "reals are {1}x{0}, fakes {3}x{2}; resize one: sizes alone move scores".format(
        *base.size, *made.size
      )
    )
  found["real"] = score_inputs.about(
    options.real, real, reals.where, base.moves, run.digest(real)
  )
  halves = reals.how == HALVES
  other = base
  if not halves:
    other = run("floor", real, reals.other, protocol.stride)
  half = len(base.features) // 2
  a = base.features[:half] if halves else base.features
  b = base.features[half : 2 * half] if halves else other.features
  rows = {"fakes": (base.features, made.features), f"floor: {reals.how}": (a, b)}
  for name, change in scoring.BASELINES.items():
    rows[f"baseline: {name}"] = (
      a, run(name, real, reals.other, protocol.stride, change).features
    )  # fmt: skip
  _fill(found, protocol, rows, options)
  found["colour_histogram_distance"] = motion.histogram_distance(
    base.colours, made.colours
  )
  found["nearest_real"] = {"fakes": _nearest(made, base)}
  if not halves:
    found["nearest_real"]["floor"] = _nearest(other, base)
  if options.paired:
    made = clip_sources.clips(
      fake, fakes, protocol.frames, protocol.fake_stride, protocol.pixels
    )
    originals = score_pairs.Originals(protocol, real, fakes)
    pairs = score_pairs.row(score_pairs.compare(zip(originals, made)))
    found["paired"] = {name: float(np.mean(v)) for name, v in pairs.items()}
  return found


def _of_classes(protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
  """Inception scores: of the fakes, and of as many real clips if they are given."""
  fake = score_inputs.open_clips(options.fake, "fake")
  places = lambda source, stride: clip_sources.places(
    source, protocol.frames, stride, "first", 0, 0
  )[0]
  fakes = places(fake, protocol.fake_stride)
  fakes = fakes[: score_inputs.enough(protocol, "fakes", options.fake, len(fakes))]
  real, others = None, []
  if options.real:
    real = score_inputs.open_clips(options.real, "real")
    others = places(real, protocol.stride)[: len(fakes)]
  run = Run(protocol, options)
  found = score_inputs.head(protocol, options, run.weights)
  sets = {"fake": (options.fake, fake, fakes, protocol.fake_stride)}
  if real and len(others) < len(fakes):
    found["notes"].append(
      f"{options.real} gives {len(others)} clips and not {len(fakes)}: no row of real"
      " clips, since the score by itself grows with their number"
    )
  elif real:
    sets["real"] = (options.real, real, others, protocol.stride)
  rows = {}
  for side, (path, source, where, stride) in sets.items():
    made = run(f"{side}s", source, where, stride)
    rows[{"fake": "fakes", "real": "ceiling: real clips"}[side]] = made
    found[side] = score_inputs.about(path, source, where, made.moves, run.digest(source))
  whose, (_, source, where, stride) = list(sets.items())[-1]
  for name, change in scoring.OF_CLASSES.items():
    title = f"baseline: {whose} clips, {name}"
    rows[title] = run(title.partition(", ")[2], source, where, stride, change)
  found["interval"] = "mean -+ 2 deviations over splits"
  found["scores"] = {
    name: [scoring.inception(protocol, made.features).record()]
    for name, made in rows.items()
  }
  return found


# Extractor -> whether acceleration is what FVMD's release takes for it.
_OF_TRACKS = {"fvmd_release": True, "fvmd_true": False}


def _from_features(protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
  """Scores features, or tracks, that were made elsewhere."""
  sets = {}
  for flag, what in (("real", "reals"), ("fake", "fakes")):
    path = pathlib.Path(vars(options)[flag]).expanduser()
    if not path.is_file():
      raise DataError(f"--{flag}={path}: protocol {protocol.name} reads an npz of features")
    array = clip_sources.npz_member(path)
    if array.dtype.kind not in "fiu":
      raise DataError(f"{path} holds {array.dtype}; numbers are due")
    array = np.asarray(array, np.float64)
    flat = array.ndim == 2 or protocol.extractor in _OF_TRACKS
    if not flat or not np.isfinite(array).all():
      raise DataError(f"{path} holds {array.shape}, or NaN; finite [N,D] features are due")
    sets[flag] = array[: score_inputs.enough(protocol, what, str(path), len(array))]
  features, baselines = SAME, scoring.OF_FEATURES
  if protocol.extractor in _OF_TRACKS:
    released = _OF_TRACKS[protocol.extractor]
    features = lambda tracks: fvmd.features(tracks, released=released)
    baselines = scoring.OF_TRACKS
  real, fake = (features(sets[side]) for side in ("real", "fake"))
  if real.shape[1] != fake.shape[1]:
    raise DataError(f"features have {real.shape[1]} and {fake.shape[1]}"
                    " numbers; both sets must be of one network")  # fmt: skip
  found = score_inputs.head(protocol, options, "features from files")
  # Halves of clips and not of their windows, which are of the same clips.
  half = len(sets["real"]) // 2
  a, b = sets["real"][:half], sets["real"][half : 2 * half]
  base = features(a)
  rows = {"fakes": (real, fake), f"floor: {HALVES}": (base, features(b))}
  for name, change in baselines.items():
    rows[f"baseline: {name}, {HALVES}"] = (base, features(change(b)))
  _fill(found, protocol, rows, options)
  return found


def _fill(
  found: dict[str, Any], protocol: Protocol, rows: dict[str, Any],
  options: argparse.Namespace,
) -> None:  # fmt: skip
  """Adds the scores of pairs of features, and how they change with the number."""
  found["scores"] = {
    name: [
      scoring.compare(
        protocol, metric, a, b, resamples=options.resamples, seed=options.seed
      ).record()
      for metric in scoring.METRICS
    ]
    for name, (a, b) in rows.items()
  }
  found["growth"] = {
    name: scoring.growth(protocol, "frechet", a, b) for name, (a, b) in rows.items()
  }


def _nearest(made: Made, base: Made) -> dict[str, float]:
  """Distances to the nearest real clip that was scored against, grey levels."""
  found = motion.nearest(made.thumbs.astype(np.float32), [base.thumbs])
  return {"mean": float(found.distance.mean()), "least": float(found.distance.min())}
