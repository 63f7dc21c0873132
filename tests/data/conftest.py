# SPDX-License-Identifier: Apache-2.0
"""Tiny videos whose frames say their number, written by several codecs."""

import fractions
import pathlib

import av
import numpy as np
from PIL import Image
import pytest

from lamd_jax import config as config_lib
from lamd_jax import media

# Suffix -> codec, pixel format. H.264 mp4 is written by media, as users' files are.
CODECS = {
  ".avi": ("mpeg4", "yuv420p"),
  ".mov": ("mjpeg", "yuvj420p"),
  ".mkv": ("ffv1", "bgr0"),
  ".webm": ("libvpx", "yuv420p"),
}


def numbered(n, height=24, width=32):
  """Frames whose brightness is 20 + 4 t: `numbers` reads t back."""
  level = 20 + 4 * np.arange(n)
  return np.broadcast_to(
    level[:, None, None, None].astype(np.uint8), (n, height, width, 3)
  ).copy()


def numbers(clip):
  """Frame numbers [T] of a clip made of `numbered` frames, whatever the codec."""
  return np.round((clip.astype(float).mean((1, 2, 3)) - 20) / 4).astype(int)


def write_video(path, n, fps=8, height=24, width=32, gop=12):
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  frames = numbered(n, height, width)
  if path.suffix == ".mp4":
    media.write_mp4(path, frames, fps)
  elif path.suffix == ".gif":
    media.write_gif(path, frames, fps)
  else:
    codec, pixels = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
      stream = container.add_stream(codec, rate=fractions.Fraction(fps))
      stream.height, stream.width, stream.pix_fmt = height, width, pixels
      stream.codec_context.gop_size = gop
      stream.bit_rate = 4_000_000  # or brightness is off by a frame or two
      if codec == "mpeg4":
        stream.options = {"qmin": "1", "qmax": "2"}
      for frame in frames:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        container.mux(stream.encode(picture.reformat(format=pixels)))
      container.mux(stream.encode())
  return path


def turned_video(path, turn):
  """Three frames 32 wide and 24 high, white top left, that say they are turned."""
  picture = np.zeros((24, 32, 3), np.uint8)
  picture[:12, :16] = 255
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=8)
    stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
    stream.codec_context.sample_aspect_ratio = fractions.Fraction(4, 3)
    if turn:
      stream.set_display_rotation(turn)
    for _ in range(3):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def write_frames(folder, n, first=0, step=1, suffix=".png", stem="frame"):
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for t, frame in enumerate(numbered(n)):
    Image.fromarray(frame).save(folder / f"{stem}{first + t * step}{suffix}")
  return folder


@pytest.fixture
def make():
  """The makers, without an import between test files."""

  class Make:
    video = staticmethod(write_video)
    turned = staticmethod(turned_video)
    frames = staticmethod(write_frames)
    numbers = staticmethod(numbers)
    numbered = staticmethod(numbered)

  return Make


@pytest.fixture
def data_config(tmp_path, monkeypatch):
  """The `data` group for small clips of files; no index leaks out of the test."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  config = config_lib.defaults().data
  config.update(frames=4, size=16, num_threads=0, fps=5.0, root=str(tmp_path / "data"))
  return config
