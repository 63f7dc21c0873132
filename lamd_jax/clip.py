# SPDX-License-Identifier: Apache-2.0
"""A finished clip, as Python gives it to its users: it saves, opens and shows itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
import json
import math
import os
import pathlib
import shutil
from typing import NamedTuple
import zipfile

import av
import numpy as np
from PIL import Image

from lamd_jax import media
from lamd_jax.data import frame_folder
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError

Path = str | os.PathLike[str]
_FACTS = "clip.json"  # beside the pictures of a folder: frames a second, frames
_SHOWN = 256  # pixels: smaller clips are shown larger, sharp-edged


class Clip(NamedTuple):
  """A finished clip: frames [T,H,W,3] uint8, fps frames a second.

  `save` never rescales and never changes the range of values. npz, a folder of png and
  webp give the same numbers back; mp4 (4:2:0 chroma, quality in `media.CRF`) and gif
  (256 colours) are near them.
  """

  frames: np.ndarray
  fps: float

  def save(self, path: Path) -> None:
    """Writes the clip; the suffix says how.

    .mp4, .gif, .webp (lossless), .npz (`arr_0` [1,T,H,W,3] as LVDM's samples, `fps`),
    or none for a folder of 00000.png, 00001.png, ..., which replaces an older clip.

    Raises:
      ConfigError: an unknown suffix, or a rate that is no number above 0. ValueError:
        frames that are not uint8 [T,H,W,3], a folder that holds something else.
    """
    path = pathlib.Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _WRITE:
      raise ConfigError(f"{path}: unknown suffix; use {_known()}")
    media.check_frames(self.frames)
    try:
      fps = float(self.fps)  # NumPy's numbers are not what files hold
    except (TypeError, ValueError):
      fps = math.nan
    if not 0 < fps < math.inf:
      raise ConfigError(f"{path}: fps={self.fps}: must be a number above 0, such as 8.0")
    _WRITE[suffix](path, self._replace(fps=fps))

  @classmethod
  def open(cls, path: Path, fps: float | None = None) -> Clip:
    """Reads a clip that `save` wrote, or another video.

    Args:
      path: a file .npz, .webp, .gif or of any video format, or a folder of images.
      fps: the rate where nothing is stored (a folder or npz of others), and instead of
        what is.

    Raises:
      DataError: in one line: absent, not readable, or without a rate.
    """
    path = pathlib.Path(path).expanduser()
    if not path.exists():
      raise DataError(f"{path}: no such file or folder")
    kind = "" if path.is_dir() else path.suffix.lower()
    try:
      frames, stored = _READ.get(kind, media.read_video)(path)
      frames = media.check_frames(frames)
    except DataError:
      raise
    except (
      OSError, ValueError, LookupError, SyntaxError, av.FFmpegError, zipfile.BadZipFile,
      Image.DecompressionBombError,
    ) as error:  # fmt: skip
      raise DataError(f"{path}: holds no clip that can be read ({error})") from error
    rate = fps or stored
    if not rate > 0:
      raise DataError(f"{path}: stores no frames a second; say Clip.open(path, fps=8)")
    return cls(frames, float(rate))

  def show(self) -> None:
    """Shows the clip in the notebook; elsewhere says how to see it."""
    try:
      from IPython import display  # Late: only notebooks have it.
    except ImportError:
      print("Clip.show is for notebooks; elsewhere: clip.save('clip.mp4')", flush=True)
      return
    display.display(display.HTML(self._repr_html_()))

  def _repr_html_(self) -> str:
    data = media.encode_webp(self.frames, self.fps, lossless=False)
    width = max(_SHOWN, self.frames.shape[2])
    return (
      f'<img src="data:image/webp;base64,{base64.b64encode(data).decode()}" width="{width}"'
      ' style="image-rendering:pixelated">'
    )


def tile(clips: Sequence[Clip], columns: int = 0) -> Clip:
  """Lays clips out in a grid, row by row, a white pixel between: one clip.

  Args:
    clips: of one shape and one rate.
    columns: of the grid; 0 for the smallest square that holds all.

  Raises:
    ConfigError: no clip, or clips that differ.
  """
  clips = [clips] if isinstance(clips, Clip) else list(clips)
  if not clips:
    raise ConfigError("tile: no clip was given")
  for clip in clips:
    if clip.frames.shape != clips[0].frames.shape or clip.fps != clips[0].fps:
      raise ConfigError(
        f"tile: a clip is {clip.frames.shape} at {clip.fps:g} frames a second, the"
        f" first {clips[0].frames.shape} at {clips[0].fps:g}; give clips that are alike"
      )
    media.check_frames(clip.frames)
  return Clip(media.grid([clip.frames for clip in clips], columns), clips[0].fps)


def _known() -> str:
  return ", ".join(s for s in _WRITE if s) + ", or none for a folder of png"


def _write_npz(path: Path, clip: Clip) -> None:
  arrays = {"arr_0": clip.frames[None], "fps": np.float64(clip.fps)}
  media.atomically(path, lambda partial: media.save_npz(partial, **arrays))


def _read_npz(path: pathlib.Path) -> tuple[np.ndarray, float]:
  with np.load(path) as file:  # never unpickles
    clips = file["arr_0"]
    if clips.ndim != 5 or len(clips) != 1:
      raise ValueError(f"arr_0 is {clips.shape}, not one clip [1,T,H,W,3]")
    return clips[0], float(file["fps"]) if "fps" in file else 0.0


def _write_webp(path: Path, clip: Clip) -> None:
  data = media.encode_webp(clip.frames, clip.fps, lossless=True)
  media.atomically(path, lambda partial: partial.write_bytes(data))


def _write_folder(path: Path, clip: Clip) -> None:
  """Writes beside the target and renames, so that no mixture of clips is ever there."""
  folder = pathlib.Path(path)
  if folder.exists() and not (folder / _FACTS).is_file() and (
    not folder.is_dir() or any(folder.iterdir())
  ):  # fmt: skip
    raise ValueError(f"{folder}: holds something else than a clip; name another folder")
  partial = folder.with_name(f".{folder.name}.part")
  old = folder.with_name(f".{folder.name}.old")
  for left in (partial, old):
    shutil.rmtree(left, ignore_errors=True)
  try:
    partial.mkdir(parents=True)
    for t, frame in enumerate(clip.frames):
      Image.fromarray(frame).save(partial / f"{t:05d}.png")
    facts = {"fps": clip.fps, "frames": len(clip.frames)}
    (partial / _FACTS).write_text(json.dumps(facts) + "\n")
    if folder.exists():
      os.rename(folder, old)
    os.rename(partial, folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)  # there only where something failed
    if old.exists() and not folder.exists():
      os.rename(old, folder)
  shutil.rmtree(old, ignore_errors=True)


def _read_folder(folder: pathlib.Path) -> tuple[np.ndarray, float]:
  frames = []
  if not (names := frame_folder.names(folder)):  # 2.png before 10.png
    raise DataError(f"{folder}: holds no picture; name a file, or a clip's folder")
  for name in names:
    with Image.open(folder / name) as picture:
      frames.append(frame_folder.rgb(picture))
  facts = folder / _FACTS
  fps = float(json.loads(facts.read_text())["fps"]) if facts.is_file() else 0.0
  return np.stack(frames), fps


_WRITE: Mapping[str, Callable[[Path, Clip], None]] = {
  ".mp4": lambda path, clip: media.write_mp4(path, clip.frames, clip.fps),
  ".gif": lambda path, clip: media.write_gif(path, clip.frames, clip.fps),
  ".webp": _write_webp,
  ".npz": _write_npz,
  "": _write_folder,
}
_READ: Mapping[str, Callable[[pathlib.Path], tuple[np.ndarray, float]]] = {
  ".gif": media.read_pictures,
  ".webp": media.read_pictures,
  ".npz": _read_npz,
  "": _read_folder,
}
