# SPDX-License-Identifier: Apache-2.0
"""Images and clips from users: read, fitted to a model, and said what was done."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any, NamedTuple

import av
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
from PIL import ImageOps

from lamd_jax import knobs as knobs_lib
from lamd_jax import media
from lamd_jax.data import frame_folder
from lamd_jax.data import pipeline
from lamd_jax.data import transforms
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError


class Given(NamedTuple):
  """What clips are made of, read and fitted; clips take the entries in turn."""

  texts: Sequence[str]
  labels: Sequence[int]
  images: np.ndarray | None  # [M,1,H,W,3] uint8
  motion: np.ndarray | None  # [T,H,W,3] uint8
  depth: np.ndarray | None = None  # [M,T,H,W,1] uint8
  video: np.ndarray | None = None  # [M,T,H,W,3] uint8, what is edited
  mask: np.ndarray | None = None  # [M,T,H,W,1] uint8, 1 where it is edited

  def turn(self, index: np.ndarray) -> Given:
    """Returns the clips, and their masks, that `index` [B] takes in turn."""
    rows = index % len(self.video)
    mask = None if self.mask is None else self.mask[rows]
    return self._replace(video=self.video[rows], mask=mask)

  def composed(self, made: np.ndarray) -> np.ndarray:
    """Returns clips that are `made` where they are edited, as they were elsewhere."""
    return np.where(self.mask, made, self.video)


def _entries(given: Any) -> int:
  """How many a list holds, 0 for what is none. An image is an array of more axes."""
  is_list = isinstance(given, list | tuple | range) or np.ndim(given) == 1
  return len(given) if is_list else 0


def count(n: int | None, seed: Any, **given: Any) -> int | None:
  """Returns how many clips: `n`; where it is None, one an entry of the longest list.

  Args:
    n: as it was asked for.
    seed: one, or several that clips take in turn.
    **given: text, image and label, likewise.

  Raises:
    ConfigError: `n` clips are fewer than a list other than that of seeds has entries.
  """
  entries = {key: _entries(value) for key, value in given.items()}
  if n is None:
    return max(_entries(seed), *entries.values()) or None
  for key, held in entries.items():
    if isinstance(n, int | np.integer) and held > n:
      raise ConfigError(f"n={n}: {key} holds {held}; say n={held}, or leave n out")
  return n


def images(given: Any) -> list[Any]:
  """Returns the images that clips take in turn, as `image` takes them; none of None.

  Raises:
    ConfigError: neither an image nor a list of them.
  """
  found = [] if given is None else knobs_lib.several(
    "image", given, str | os.PathLike | np.ndarray, "a path, an array [H,W,3] uint8"
  )  # fmt: skip
  return [x for x in found if isinstance(x, np.ndarray) or x]


def say(notes: Sequence[str]) -> None:
  """Tells the user what was done to inputs, a line each."""
  for note in notes:
    print(note, flush=True)


def _open(path: str | os.PathLike[str]) -> Image.Image:
  try:
    with Image.open(path) as picture:
      # Cameras store a turn beside the pixels.
      return ImageOps.exif_transpose(picture)
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    reason = "no such file" if isinstance(error, FileNotFoundError) else "no image"
    raise DataError(
      f"image={os.fspath(path)}: {reason} that can be read; give a PNG or JPEG"
    ) from error


def _from_array(array: np.ndarray) -> Image.Image:
  array = np.asarray(array)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (3, 4):
    raise DataError(
      f"image: an array of {array.dtype} {array.shape}; give uint8 [H,W,3] or [H,W,4]"
    )
  if not array.size:
    raise DataError(f"image: an array {array.shape} holds no pixel; give uint8 [H,W,3]")
  return Image.fromarray(array)


def image(given: Any, size: int, resize: str) -> tuple[np.ndarray, str]:
  """Makes a first frame of an image.

  Args:
    given: a file's path, or an array [H,W,3] or [H,W,4] uint8, the fourth being alpha.
    size: height and width that the model takes, pixels.
    resize: as the run's clips were fitted, a key of transforms.RESIZE.

  Returns:
    (image [1,size,size,3] uint8, one line that says what was done, "" if nothing)

  Raises:
    DataError: a file that is no image, or an array of another kind.
  """
  is_path = isinstance(given, str | os.PathLike)
  picture = _open(given) if is_path else _from_array(given)
  done = []
  if picture.has_transparency_data:
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture.convert("RGBA"))
    done.append("alpha laid over white")
  pixels = frame_folder.rgb(picture)[None]
  if pixels.shape[1:3] != (size, size):
    height, width = pixels.shape[1:3]
    pixels = transforms.resize(pixels, size, resize)
    done.append(f"{width}x{height} fitted to {size}x{size} ({resize})")
  name = os.fspath(given) if is_path else "image"
  return pixels, f"{name}: {', '.join(done)}" if done else ""


def motion(given: Any, frames: int, size: int, resize: str) -> tuple[np.ndarray, str]:
  """Makes a clip [frames,size,size,3] uint8 whose motion can be taken, and a note.

  Args:
    given: a video file's path, or an array [T,H,W,3] uint8. The first `frames` count.
    frames, size, resize: what the model takes, see `image`.

  Raises:
    DataError: a file that is no video, or too short a clip.
  """
  if isinstance(given, str | os.PathLike):
    name = os.fspath(given)
    try:
      video, _ = media.read_video(given, frames + 1)  # one more tells that there are
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
      raise DataError(
        f"motion_from={name}: no video that can be read; give an mp4 or gif"
      ) from error
  else:
    name, video = "array", media.check_frames(given)
  if len(video) < frames:
    raise DataError(
      f"motion_from={name}: {len(video)} frames, this model takes the motion of {frames}"
    )
  done = []
  if len(video) > frames:
    done.append(f"its first {frames} frames")
    video = video[:frames]
  if video.shape[1:3] != (size, size):
    height, width = video.shape[1:3]
    video = transforms.resize(video, size, resize)
    done.append(f"{width}x{height} fitted to {size}x{size} ({resize})")
  return video, f"motion of {name}: {', '.join(done)}" if done else ""


def content(
  data: ConfigDict, seed: int, n: int, images: Sequence[Any], texts: Sequence[str]
) -> tuple[np.ndarray | None, list[str]]:
  """Reads what edited clips shall look like.

  Args:
    data: the run's `data` group.
    seed: of the run.
    n: clips wanted.
    images: as `image` takes them.
    texts: captions; with one that is not empty, no image is needed.

  Returns:
    (images [M,1,H,W,3] uint8, or None where words say it; lines to tell the user).
    Without either, each clip is to look like the next one of the held-out clips.
  """
  if images:
    read = [image(given, data.size, data.resize) for given in images]
    return np.stack([frame for frame, _ in read]), [note for _, note in read if note]
  if any(texts):
    return None, []
  # One more than is made, so that what clip i gets does not depend on n.
  frames = pipeline.clips(data, data.eval_split, n + 1, seed)[:, :1]
  note = "no content given: first frames of other clips of the split"
  others = frames[1:] if len(frames) > n else np.roll(frames, -1, axis=0)
  return others, [f"{note} {data.eval_split}"]


def gather(
  data: ConfigDict, seed: int, n: int, images: Sequence[Any], motion_from: Any
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
  """Reads what is to move, and how.

  Args:
    data: the run's `data` group.
    seed: of the run.
    n: clips wanted.
    images: as `image` takes them; none takes first frames of held-out clips.
    motion_from: as `motion` takes it, or None.

  Returns:
    (images [M,1,H,W,3] uint8, motion [T,H,W,3] uint8 or None, lines to tell the user)
  """
  notes = []
  if images:
    read = [image(given, data.size, data.resize) for given in images]
    notes += [note for _, note in read]
    frames = np.stack([frame for frame, _ in read])
  else:
    frames = pipeline.clips(data, data.eval_split, n, seed)[:, :1]
    notes.append(f"no image given: first frames of clips of the split {data.eval_split}")
  clip = None
  if motion_from is not None:
    clip, note = motion(motion_from, data.frames, data.size, data.resize)
    notes.append(note)
  return frames, clip, [note for note in notes if note]
