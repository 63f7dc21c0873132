# SPDX-License-Identifier: Apache-2.0
"""Clips to and from files: mp4, gif, png, npz. uint8 in, never rescaled silently.

All writers write a temporary file beside the target and rename it, so a reader never
meets half a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import fractions
import io
import itertools
import os
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import av
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.reformatter import VideoReformatter
from etils import epath
import numpy as np
from PIL import Image

# H.264 quality: visually lossless for judging samples, an eighth of a png sequence.
CRF = 12

# FFmpeg's quick arithmetic darkens a frame by a level or more, and reads colours a quarter
# of a pixel beside their place.
_EXACT = (
  Interpolation.BILINEAR | Interpolation.ACCURATE_RND
  | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)  # fmt: skip

# A file can claim to be a playlist and name other files or hosts; these cannot.
_OPTIONS = {
  "protocol_whitelist": "file",
  "format_whitelist": (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegvideo,mpegts,flv,asf,ogg,"
    "apng,ivf,h264,hevc,yuv4mpegpipe"
  ),
}


def check_frames(frames: np.ndarray) -> np.ndarray:
  """Returns `frames` if they are [T,H,W,3] uint8 with T,H,W >= 1, else raises."""
  frames = np.asarray(frames)
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
    raise ValueError(
      f"frames are {frames.dtype} {frames.shape}; expected uint8 [T,H,W,3]: convert"
      " with media.to_uint8"
    )
  if 0 in frames.shape:
    raise ValueError(f"frames {frames.shape} hold no pixel")
  return frames


def to_uint8(video: np.ndarray) -> np.ndarray:
  """Maps float [-1,1] to uint8 by truncation after clipping, as LVDM's release does."""
  return np.clip((np.asarray(video, np.float32) + 1) * 127.5, 0, 255).astype(np.uint8)


def atomically(
  path: str | os.PathLike[str], write: Callable[[pathlib.Path], object]
) -> None:
  """Lets `write` fill a file beside `path` and gives it its name when it is whole."""
  if "://" in os.fspath(path):  # a bucket, where a file is written as a whole
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder) / epath.Path(path).name
      write(local)
      epath.Path(path).write_bytes(local.read_bytes())
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last: encoders choose the container by it.
  partial = path.with_name(f".{path.stem}.part{path.suffix}")
  try:
    write(partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file, whole or not at all."""
  atomically(path, lambda partial: partial.write_text(text, "utf-8"))


def even(frames: np.ndarray) -> np.ndarray:
  """Pads [T,H,W,3]: 4:2:0 chroma needs even sides; an odd one repeats its last row or column."""
  _, height, width, _ = frames.shape
  pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
  return np.pad(frames, pad, mode="edge") if height % 2 or width % 2 else frames


def write_mp4(path: str | os.PathLike[str], frames: np.ndarray, fps: float) -> None:
  """Writes frames [T,H,W,3] uint8 as H.264 yuv420p, BT.709, at `fps` frames a second.

  The matrix is converted and tagged alike; untagged files are shown with other
  colours by other players.
  """
  encode_mp4(path, frames, fps, {})


def rate(fps: float) -> fractions.Fraction:
  """The frame rate as files hold it: 23.976 is 2997/125."""
  return fractions.Fraction(float(fps)).limit_denominator(1001)


def encode_mp4(
  path: str | os.PathLike[str],
  frames: np.ndarray,
  fps: float,
  options: Mapping[str, str],
) -> None:
  """`write_mp4` with further `options` of libx264."""
  frames = even(check_frames(frames))

  def write(partial: pathlib.Path) -> None:
    with av.open(str(partial), "w", options={"movflags": "+faststart"}) as container:
      stream = add_h264(container, rate(fps), *frames.shape[1:3], options)
      # One for all frames: making a converter takes longer than a small frame does.
      converter = VideoReformatter()
      for frame in frames:
        container.mux(stream.encode(to_yuv(converter, frame)))
      container.mux(stream.encode())

  atomically(path, write)


def add_h264(
  container: av.container.OutputContainer,
  frame_rate: fractions.Fraction,
  height: int,
  width: int,
  options: Mapping[str, str],
) -> av.VideoStream:
  """Adds the stream that all mp4 files of ours have, of even sides; see `write_mp4`."""
  stream = container.add_stream("libx264", rate=frame_rate)
  stream.height, stream.width = height, width
  stream.pix_fmt = "yuv420p"
  # `to_yuv` averages colours over two columns: they lie between them, which players
  # that are not told take for the left one.
  colours = {"x264-params": "chromaloc=1"}
  stream.options = {"crf": str(CRF), "preset": "medium", **colours, **options}
  context = stream.codec_context
  context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
  context.color_range = ColorRange.MPEG
  return stream


def convert(
  converter: VideoReformatter, frame: av.VideoFrame, **wanted: Any
) -> av.VideoFrame:
  """`converter.reformat` to the nearest level; what shrinks is averaged over (bilinear)."""
  # FFmpeg's own choice is a thread for each processor, of every reader of clips.
  return converter.reformat(frame, interpolation=_EXACT, threads=1, **wanted)


def to_yuv(converter: VideoReformatter, frame: np.ndarray) -> av.VideoFrame:
  """Returns a frame [H,W,3] uint8 as an `add_h264` stream encodes it."""
  return convert(
    converter,
    av.VideoFrame.from_ndarray(frame, format="rgb24"),
    format="yuv420p",
    src_color_range=ColorRange.JPEG,
    dst_color_range=ColorRange.MPEG,
    dst_colorspace=Colorspace.ITU709,
  )


def encode_gif(frames: np.ndarray, fps: float) -> bytes:
  """Returns an endlessly looping GIF of frames [T,H,W,3] uint8.

  One palette for all frames: palettes of their own make still regions flicker.
  """
  frames = check_frames(frames)
  # Frames side by side give a palette fitted to the whole clip.
  strip = Image.fromarray(np.concatenate(list(frames[:: max(1, len(frames) // 8)]), 1))
  palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
  pictures = [
    Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    for f in frames
  ]
  # Viewers ignore delays below two hundredths of a second.
  return _save_pictures(pictures, "GIF", min(fps, 50.0))


_LARGEST = 1 << 33  # bytes of the frames of an animated picture


class _Form(NamedTuple):
  """A picture format with animations."""

  unit: int  # of delays, ms
  note: str  # Pillow's name of a place for a remark


_FORMS = {"GIF": _Form(10, "comment"), "WEBP": _Form(1, "xmp")}


def delays(count: int, fps: float, unit: int) -> list[int]:
  """How long each of `count` frames is shown, ms, in multiples of `unit` ms.

  Every delay is rounded so that their sum keeps to the rate: 8 frames a second are 120
  and 130 ms in turn where ten is the unit, and not 120 each.
  """
  ends = [round(1000 * i / fps / unit) * unit for i in range(count + 1)]
  return [max(unit, end - start) for start, end in zip(ends, ends[1:])]


def encode_webp(frames: np.ndarray, fps: float, lossless: bool) -> bytes:
  """Returns an endlessly looping WebP of frames [T,H,W,3] uint8."""
  pictures = [Image.fromarray(frame) for frame in check_frames(frames)]
  # method 0: the slower ones save a few per cent and take five times as long.
  return _save_pictures(
    pictures, "WEBP", fps, lossless=lossless, exact=True, quality=80, method=0
  )


def _save_pictures(
  pictures: Sequence[Image.Image], form: str, fps: float, **options: Any
) -> bytes:
  buffer = io.BytesIO()
  unit, note = _FORMS[form]
  pictures[0].save(
    buffer, form, save_all=True, append_images=pictures[1:], loop=0,
    duration=delays(len(pictures), fps, unit),
    **{note: f"fps={float(fps)!r} frames={len(pictures)}".encode()}, **options,
  )  # fmt: skip
  return buffer.getvalue()


def _check_room(frames: int, picture: np.ndarray) -> None:
  """Raises ValueError for a small file that would unfold to more than memory holds."""
  if frames * picture.nbytes > _LARGEST:
    raise ValueError(f"{frames} frames of {picture.nbytes} bytes are too many")


def read_pictures(path: str | os.PathLike[str]) -> tuple[np.ndarray, float]:
  """Reads an animated picture; returns frames [T,H,W,3] uint8 and frames a second.

  The rate is 0 where none is stored. Encoders join equal neighbours into one frame
  that is shown longer; here they are frames again.
  """
  pictures, durations = [], []
  with Image.open(path) as file:
    note = file.info.get(_FORMS[file.format].note, b"") if file.format in _FORMS else b""
    for i in range(file.n_frames if file.format in _FORMS else 1):
      file.seek(i)
      pictures.append(np.asarray(file.convert("RGB")))
      durations.append(file.info.get("duration", 0))
  said = re.fullmatch(rb"fps=([0-9.e+-]+) frames=([0-9]{1,6})", note)
  if said and len(pictures) == 1:  # a still clip, which has no delay any more
    _check_room(int(said.group(2)), pictures[0])
    return np.repeat(pictures, int(said.group(2)), axis=0), float(said.group(1))
  if min(durations) <= 0:
    return np.stack(pictures), 0.0
  fps = float(said.group(1)) if said else 1000 / min(durations)
  times = [max(1, round(d * fps / 1000)) for d in durations]
  _check_room(sum(times), pictures[0])
  if not said:  # delays are rounded: all of them together know the rate better
    fps = 1000 * sum(times) / sum(durations)
  return np.repeat(np.stack(pictures), times, axis=0), fps


def write_gif(path: str | os.PathLike[str], frames: np.ndarray, fps: float) -> None:
  data = encode_gif(frames, fps)
  atomically(path, lambda partial: partial.write_bytes(data) and None)


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
  """Writes one image [H,W,3] uint8."""
  image = check_frames(np.asarray(image)[None])[0]
  atomically(path, lambda partial: Image.fromarray(image).save(partial))


def write_npz(path: str | os.PathLike[str], clips: np.ndarray) -> None:
  """Writes clips [N,T,H,W,3] uint8 under the key `arr_0`, as LVDM's samples are."""
  atomically(path, lambda partial: save_npz(partial, arr_0=clips))


def save_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
  """Writes a compressed npz to `path` itself: np.savez adds .npz to a name like a.NPZ."""
  with path.open("wb") as file:
    np.savez_compressed(file, **arrays)


def open_video(path: str | os.PathLike[str]) -> av.container.InputContainer:
  """Opens a local video file that the caller closes; no playlist, no other protocol."""
  # "file:" keeps names such as "a:b.mp4" from being read as a protocol.
  return av.open(f"file:{os.path.abspath(path)}", options=_OPTIONS)


def turns(frame: av.VideoFrame) -> int:
  """How many quarter turns, anticlockwise, make a frame upright (np.rot90).

  Cameras store pictures as they lie on the chip, and a turn beside them.
  """
  return round(frame.rotation / 90) % 4


def read_video(
  path: str | os.PathLike[str], most: int | None = None
) -> tuple[np.ndarray, float]:
  """Decodes a file, or its first `most` frames.

  Returns:
    frames [T,H,W,3] uint8, upright, and how many there are a second.
  """
  converter = VideoReformatter()
  with open_video(path) as container:
    stream = container.streams.video[0]
    frames = [
      np.rot90(convert(converter, frame, format="rgb24").to_ndarray(), turns(frame))
      for frame in itertools.islice(container.decode(stream), most)
    ]
    return np.stack(frames), float(stream.average_rate or 0)


def grid(clips: np.ndarray | Iterable[np.ndarray], columns: int = 0) -> np.ndarray:
  """Tiles clips [N,T,H,W,3] uint8 into one [T,H',W',3], row by row, a pixel between.

  `columns` defaults to the smallest square that holds all.
  """
  clips = np.stack(list(clips))
  count, time, height, width, channels = clips.shape
  columns = columns or int(np.ceil(np.sqrt(count)))
  rows = -(-count // columns)
  sheet = np.full(
    (time, rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8
  )
  for i, clip in enumerate(clips):
    top, left = i // columns * (height + 1), i % columns * (width + 1)
    sheet[:, top : top + height, left : left + width] = clip
  return sheet


def filmstrip(clips: np.ndarray, frames: int = 8) -> np.ndarray:
  """Lays `frames` evenly spaced frames of each clip [N,T,H,W,3] in a row: one image."""
  pick = np.linspace(0, clips.shape[1] - 1, min(frames, clips.shape[1])).round()
  picked = clips[:, pick.astype(int)]
  return grid(picked.reshape(-1, 1, *clips.shape[2:]), columns=picked.shape[1])[0]
