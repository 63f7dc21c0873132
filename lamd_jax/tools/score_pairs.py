# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and LPIPS of clips against their originals, beside floor and yardstick."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
import itertools
import pathlib
import tempfile

import numpy as np

from lamd_jax import media
from lamd_jax.errors import DataError
from lamd_jax.errors import WeightsError
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation import image_quality
from lamd_jax.evaluation import scoring
from lamd_jax.evaluation import spread
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.interchange import perceptual as perceptual_weights
from lamd_jax.tools import conversion
from lamd_jax.tools import score_cache
from lamd_jax.tools import score_clips
from lamd_jax.tools import score_inputs

Pair = tuple[np.ndarray, np.ndarray]
OTHER, ENCODED = "floor: another real clip", "yardstick: originals through an mp4 of ours"
_LPIPS = "LPIPS (VGG16, 0.1)"
_AT_ONCE = 16  # pairs of clips in memory


def through_mp4(clip: np.ndarray) -> np.ndarray:
  """A clip [T,H,W,3] uint8 as it comes back from the mp4 that `media` writes."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "clip.mp4"
    media.write_mp4(path, clip, 8)
    frames, _ = media.read_video(path)
  return frames[:, : clip.shape[1], : clip.shape[2]]  # odd sides were made even


class Originals:
  """The real clips that fakes belong to, in order of names, as often as it takes."""

  def __init__(
    self, protocol: Protocol, source: clip_sources.Source,
    fakes: list[clip_sources.Place],
  ):  # fmt: skip
    """The fake of video i belongs to real video i. Raises DataError: there are fewer."""
    last = 1 + max(place.video for place in fakes)  # shorter fakes were left out
    if len(source.names) < last:
      raise DataError(f"pairs: {len(source.names)} real videos for {last} fakes")
    self._protocol, self.source = protocol, source
    self.where = [clip_sources.Place(place.video, 0) for place in fakes]

  def __iter__(self) -> Iterator[np.ndarray]:
    return self.ordered(range(len(self.where)))

  def ordered(self, order: Iterable[int]) -> Iterator[np.ndarray]:
    protocol = self._protocol
    where = [self.where[i] for i in order]
    return clip_sources.clips(
      self.source, where, protocol.frames, protocol.stride, protocol.pixels
    )


def compare(
  pairs: Iterable[Pair], lpips: image_quality.Lpips | None = None
) -> np.ndarray:
  """Returns [N, PSNR, SSIM, SSIM, perhaps LPIPS] of pairs of clips [T,H,W,3] uint8."""
  functions = image_quality.PAIRED.values()
  each = lambda a, b: [float(f(a[None], b[None])[0]) for f in functions]
  supply, found = iter(pairs), []
  while part := list(itertools.islice(supply, _AT_ONCE)):
    rows = np.array(list(spread.over_processors(each, part)))
    if lpips is not None:
      rows = np.concatenate([rows, lpips(part)[:, None]], 1)
    found.append(rows)
  return np.concatenate(found)


def row(values: np.ndarray) -> score_clips.Row:
  """Names columns; clips without any error have no PSNR and are left out of its mean."""
  titles = [*image_quality.PAIRED, _LPIPS]
  found = {title: column[np.isfinite(column)] for title, column in zip(titles, values.T)}
  return {title: column for title, column in found.items() if len(column)}


def _weights(name: str) -> pathlib.Path:
  path = pathlib.Path(name).expanduser()
  if not name or not path.is_file():
    what = " ".join(perceptual_weights.how_to_get(name).split())
    raise WeightsError(what)
  return path


def part(protocol: Protocol, options: argparse.Namespace) -> score_clips.Found:
  """What tools.score calls for the protocols pairs and pairs_lpips."""
  lpips, digest, cache = None, "none", score_cache.Cache("off")
  if protocol.extractor == "pairs_lpips":
    path = _weights(options.weights)
    params = perceptual_weights.load(path)
    lpips = image_quality.Lpips(params, options.batch)
    digest, cache = conversion.sha256(path), score_cache.Cache(options.cache)
  real = score_inputs.open_clips(options.real, "real")
  fakes = score_clips.Clips(protocol, options.fake, "fakes")
  originals = Originals(protocol, real, fakes.where)
  order = score_clips.derange(len(fakes.where), options.seed)
  about = [real.digest(), originals.where, protocol.stride, digest]
  made = fakes.measured(
    cache, ["pairs", *about], lambda clips: compare(zip(originals, clips), lpips)
  )
  baselines = {
    OTHER: lambda: zip(originals, originals.ordered(order)),
    score_clips.STILL: lambda: ((a, scoring.repeat_first_frame(a)) for a in originals),
    ENCODED: lambda: ((a, through_mp4(a)) for a in originals),
  }
  rows = {"fakes": row(made)}
  for name, pairs in baselines.items():
    key = [name, *about, protocol.extraction_hash(), protocol.pixels, order.tolist()]
    kept = cache.read(key, ("values",), len(originals.where))
    values = kept["values"] if kept else compare(pairs(), lpips)
    cache.write(key, {"values": values})
    rows[name] = row(values)
  return score_clips.Found(rows, digest, {"fake": fakes})
