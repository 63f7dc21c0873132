# SPDX-License-Identifier: Apache-2.0
"""Clips that a named protocol asks for, written as npz files: real ones, and a model's.

Real clips are written by the first process, made ones by all, some files each, to a
folder that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import itertools
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import media
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.training import distributed
from lamd_jax.training.console import Console

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
  data = _data(config, protocol)
  videos = distributed.together(lambda: pipeline.check(data, split))
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

  def about() -> dict[str, Any]:
    record = {
      "split": split, "sampling": data.sampling, "stride": protocol.stride,
      "trained_stride": config.data.stride,
      "videos": pipeline.check(data, split),
      "fingerprint": pipeline.fingerprint(data, split),
    }  # fmt: skip
    texts, labels = _texts(*arguments), pipeline.labels(*arguments)
    return {"texts": texts, "labels": labels, "record": record}

  def opened() -> clip_sources.Source:
    _check_seen(folder, files)
    return clip_sources.open_source(folder)

  def written() -> int:
    # Thousands of whole stretches may be more than the memory holds.
    each = pipeline.each_clip(*arguments)
    blocks = iter(lambda: list(itertools.islice(each, BLOCK)), [])
    return write(folder, blocks)

  known = distributed.together(about)
  # Each tells the model what it reads itself; the first scores by what it has read.
  distributed.check_same(f"videos of {split}", known["record"]["fingerprint"])
  files = distributed.of_first(distributed.together(written, first=True) or 0)
  return Reals(distributed.together(opened), **known)


def _texts(data: ConfigDict, split: str, count: int, seed: int) -> list[str]:
  return [] if data.tokenizer == "none" else pipeline.captions(data, split, count, seed)


def _data(config: ConfigDict, protocol: Protocol) -> ConfigDict:
  data = config.data.copy_and_resolve_references()
  with data.unlocked():
    # Whole stretches are kept and strided over when they are scored; protocols leave out
    # what is shorter, as tools.score does.
    data.update(
      frames=span(protocol.frames, protocol.stride), stride=1, pad_last=False
    )
    if data.sampling in ("first", "random"):  # others belong to their data set
      data.sampling = "first" if protocol.sampling == "first" else "random"
  return data


def span(frames: int, stride: int) -> int:
  return (frames - 1) * stride + 1


def made(
  folder: pathlib.Path, count: int, size: int, make: Callable[[int, range], np.ndarray]
) -> None:
  """Writes `count` clips; every process makes and writes some of the files.

  Args:
    folder: whose files are replaced.
    count: clips.
    size: clips a file.
    make: from a file's number and the numbers of its clips to these.
  """
  blocks = [range(i, min(i + size, count)) for i in range(0, count, size)]
  distributed.together(lambda: _empty(folder), first=True)
  console = Console("evaluate: clips", count)
  # In step: one that fails is heard of after a file, not after all of a share.
  for start in range(0, len(blocks), jax.process_count()):
    turn = list(enumerate(blocks))[start : start + jax.process_count()]
    own = turn[jax.process_index() :][:1]
    distributed.together(lambda: [_write(folder, i, make(i, b)) for i, b in own])
    if jax.process_index() == 0:
      console.advance(turn[-1][1].stop)
  console.line()
  distributed.together(lambda: _check_seen(folder, len(blocks)), first=True)


def write(folder: pathlib.Path, blocks: Iterator[Sequence[np.ndarray]]) -> int:
  """Replaces the folder's files by one for each block; returns how many."""
  _empty(folder)
  files = 0
  for files, block in enumerate(blocks, 1):
    _write(folder, files - 1, block)
  return files


def _empty(folder: pathlib.Path) -> None:
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)


def _write(folder: pathlib.Path, number: int, block: Sequence[np.ndarray]) -> None:
  """Uncompressed, so that clips are mapped."""
  media.atomically(_file(folder, number), lambda part: np.savez(part, np.asarray(block)))


def _file(folder: pathlib.Path, number: int) -> pathlib.Path:
  return folder / f"{number:05d}.npz"


def _check_seen(folder: pathlib.Path, files: int) -> None:
  """Raises ConfigError where this process does not see what others wrote."""
  seen = lambda: float(np.mean([_file(folder, i).exists() for i in range(files)]))
  if (share := distributed.settled(seen)) < 1:
    raise ConfigError(
      f"{folder}: process {jax.process_index()} sees {share:.0%} of the files that the"
      " processes wrote; name a --workdir that all hosts share"
    )
