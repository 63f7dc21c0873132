# SPDX-License-Identifier: Apache-2.0
"""Sets of clips that are scored one by one, and what a part of tools.score hands back."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.evaluation import caption_following
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation import motion
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.tools import score_cache
from lamd_jax.tools import score_inputs
from lamd_jax.training.console import Console

Row = dict[str, np.ndarray]  # title of a score -> its values [N]
REAL, STILL = "real clips", "baseline: first frame repeated"


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
    self._moves = np.zeros((0, 5))

  @functools.cached_property
  def digest(self) -> str:
    return self.source.digest()

  def __iter__(self) -> Iterator[np.ndarray]:
    moves = []
    console = Console(f"score: {self._what}", len(self.where))
    protocol = self._protocol
    try:
      for i, clip in enumerate(clip_sources.clips(
        self.source, self.where, protocol.frames, self.stride, protocol.pixels
      )):  # fmt: skip
        moves.append(np.array(motion.statistics(clip)[:-1]))
        self._moves = np.stack(moves) if i + 1 == len(self.where) else self._moves
        yield clip
        console.advance(i + 1)
    finally:
      console.line()  # an error starts a line of its own

  def measured(
    self, cache: score_cache.Cache, more: Sequence[Any],
    measure: Callable[[Iterable[np.ndarray]], np.ndarray],
  ) -> np.ndarray:  # fmt: skip
    """Returns measure(clips) [N,...], from the cache if it was made before.

    Args:
      cache: of values and of motion.
      more: what the values depend on beside these clips and the protocol.
      measure: reads the clips once, to their end.
    """
    key = [
      self.digest, self.where, self.stride, self._protocol.extraction_hash(),
      self._protocol.pixels, *more,
    ]  # fmt: skip
    kept = cache.read(key, ("values", "moves"), len(self.where))
    if kept is not None:
      print(f"{self._what}: {len(self.where)} clips, scores from the cache")
      self._moves = kept["moves"]
      return kept["values"]
    values = measure(self)
    cache.write(key, {"values": values, "moves": self._moves})
    return values

  def about(self) -> dict[str, Any]:
    return score_inputs.about(
      self.path, self.source, self.where, self._moves, self.digest
    )


class Found(NamedTuple):
  """What a part hands back."""

  rows: dict[str, Row]
  weights: str  # digest of the files of weights, or "none"
  sets: dict[str, Clips]  # real, fake: whose motion is reported


def sets(protocol: Protocol, options: argparse.Namespace) -> dict[str, Clips]:
  """The fakes, and the reals if they are given."""
  found = {"fake": Clips(protocol, options.fake, "fakes")}
  if options.real:
    found["real"] = Clips(protocol, options.real, "reals")
  return found


def derange(count: int, seed: int) -> np.ndarray:
  return caption_following.derangement(np.random.default_rng(seed), count)
