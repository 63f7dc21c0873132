# SPDX-License-Identifier: Apache-2.0
"""Writes true tracks of the procedural world `cater`, as tools.score reads them.

  python -m lamd_jax.tools.tracks --out real.npz --clips 256
  python -m lamd_jax.tools.tracks --out other.npz --clips 256 --first 256 --mode v2
  python -m lamd_jax.tools.score --protocol fvmd_true --real real.npz --fake other.npz

Tracks are [N,T,20,20,2] float32 under arr_0: where the points of a clip's first frame
are in each of its frames, pixels (x, y) of a 256x256 picture, hidden or not. Give 64
clips or more: with fewer, other clips of one world lie as far from each other as clips
without any motion do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import sys

import numpy as np

from lamd_jax import errors
from lamd_jax import media
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.data.procedural.cater import MODES
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.evaluation import fvmd
from lamd_jax.tools import paths
from lamd_jax.training.console import Console

SIZE = 256  # pixels a side; FVMD's unit
_MOST = 1_000_000


def write(
  out: pathlib.Path, mode: str, split: str, first: int, clips: int, frames: int,
  seed: int,
) -> np.ndarray:  # fmt: skip
  """Writes and returns the tracks of clips first, ..., first + clips - 1.

  Raises:
    ConfigError: an argument is out of range. DataError: the file cannot be written.
  """
  if out.suffix != ".npz":
    raise ConfigError(f"--out={out}: the name must end in .npz")
  limits = {"clips": (clips, 2), "frames": (frames, fvmd.FRAMES), "first": (first, 0)}
  for name, (value, least) in limits.items():
    if not least <= value <= _MOST:
      raise ConfigError(f"--{name}={value}: must lie between {least} and {_MOST}")
  world, console, made = Cater(mode, seed), Console("tracks", clips), []
  for i in range(clips):
    made.append(world.tracks(split, first + i, frames, fvmd.GRID, SIZE))
    console.advance(i + 1)
  console.line()
  tracks = np.stack(made)
  try:
    media.atomically(out, lambda part: np.savez(part, tracks))
  except OSError as error:
    raise DataError(f"{out} cannot be written ({error.strerror})") from error
  print(f"{out}: tracks {list(tracks.shape)} of cater {mode}, {split}, from {first} on")
  return tracks


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code: 2 wrong call, 3 the file cannot be written."""
  parser = argparse.ArgumentParser(
    prog="python -m lamd_jax.tools.tracks", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  add = parser.add_argument
  add("--out", type=paths.path, required=True, metavar="NPZ")
  add("--mode", default="v1", choices=MODES, help="of the world")
  add("--split", default="test", choices=("train", "test"))
  add("--first", type=int, default=0, help="number of the first clip")
  add("--clips", type=int, default=256)
  add("--frames", type=int, default=16, help="of a clip, which spans its video")
  add("--seed", type=int, default=0, help="of the world")
  options = parser.parse_args(arguments)

  def command() -> None:
    write(**vars(options))

  return errors.exit_code(command)


if __name__ == "__main__":
  sys.exit(main())
