# SPDX-License-Identifier: Apache-2.0
"""Real clips of a run's data, taken as a named protocol says and written as npz files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import itertools
import pathlib
import shutil
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from lamd_jax import media
from lamd_jax.data import pipeline
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation.protocol import Protocol

BLOCK = 64  # clips a file
_MOST_TRAINING = 2048  # videos among which neighbours are sought
_OF_NEIGHBOURS = "thumbnails"  # the extractor


class Reals(NamedTuple):
  """Clips of the run's data, taken as the protocol says."""

  clips: clip_sources.Source  # where they were written
  texts: list[str]  # of what is made; [] of a run without text
  labels: np.ndarray | None
  record: dict[str, Any]

  def turn(self, protocol: Protocol, count: int) -> list[int]:
    """Which of them clips 0 to `count` are told, in turn.

    Where clips go on from true first frames, those of the clips that are scored.
    """
    among = len(self.texts or self.clips.names)
    if protocol.true_first and protocol.reals:
      among = min(protocol.reals, among)
    return [i % among for i in range(count)]


def to_score_against(
  config: ConfigDict, protocol: Protocol, fakes: int, floor: bool, folder: pathlib.Path
) -> Reals:
  """Writes the clips that `fakes` made ones are compared with; `floor`: others as well."""
  train = protocol.split.startswith("train") or protocol.extractor == _OF_NEIGHBOURS
  split = config.data.split if train else config.data.eval_split
  count = protocol.reals or fakes
  if protocol.extractor == _OF_NEIGHBOURS:
    count = _MOST_TRAINING
  videos = pipeline.check(_data(config, protocol), split)
  if protocol.sampling == "random" and count > videos:
    count = videos  # one clip a video: a second one would count as another video
  elif floor:
    count *= 2
  return take(config, protocol, count, split, folder)


def to_tell(
  config: ConfigDict, protocol: Protocol, fakes: int, reals: Reals, folder: pathlib.Path
) -> Reals:
  """Clips whose texts, first frames and classes the model is told: those to score against.

  But where they are training clips among which neighbours are sought, held-out ones: a
  clip that goes on from a training clip's frame has that one as its neighbour. Gen-1 edits
  held-out clips as the run has them, whatever the real ones are of: `texts` are theirs.
  """
  split = config.data.eval_split
  if config.system == "gen1":
    texts = _texts(config.data, split, fakes, config.seed)
    return reals._replace(texts=texts, record={**reals.record, "split": split})
  if protocol.extractor == _OF_NEIGHBOURS:
    return take(config, protocol, fakes, split, folder)
  return reals


def take(
  config: ConfigDict, protocol: Protocol, count: int, split: str, folder: pathlib.Path
) -> Reals:
  """Writes `count` real clips to `folder`, from where they are read again."""
  data = _data(config, protocol)
  arguments = (data, split, count, config.seed)
  record = {
    "split": split, "sampling": data.sampling, "stride": protocol.stride,
    "trained_stride": config.data.stride,
    "videos": pipeline.check(data, split),
    "fingerprint": pipeline.fingerprint(data, split),
  }  # fmt: skip
  # Thousands of whole stretches may be more than the memory holds.
  each = pipeline.each_clip(*arguments)
  write(folder, iter(lambda: list(itertools.islice(each, BLOCK)), []))
  clips = clip_sources.open_source(folder)
  return Reals(clips, _texts(*arguments), pipeline.labels(*arguments), record)


def _texts(data: ConfigDict, split: str, count: int, seed: int) -> list[str]:
  return [] if data.tokenizer == "none" else pipeline.captions(data, split, count, seed)


def _data(config: ConfigDict, protocol: Protocol) -> ConfigDict:
  data = config.data.copy_and_resolve_references()
  with data.unlocked():
    # Whole stretches are kept and strided over when they are scored.
    data.update(frames=span(protocol.frames, protocol.stride), stride=1)
    if data.sampling in ("first", "random"):  # others belong to their data set
      data.sampling = "first" if protocol.sampling == "first" else "random"
  return data


def span(frames: int, stride: int) -> int:
  return (frames - 1) * stride + 1


def write(folder: pathlib.Path, blocks: Iterator[Sequence[np.ndarray]]) -> None:
  """Replaces the folder's npz files; uncompressed, so that they are mapped."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for i, block in enumerate(blocks):
    media.atomically(folder / f"{i:05d}.npz", lambda part: np.savez(part, np.asarray(block)))
