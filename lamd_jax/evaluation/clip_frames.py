# SPDX-License-Identifier: Apache-2.0
"""From frames to CLIP's image features, prepared on the host as the originals do it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import functools
from typing import Any

import jax
import numpy as np
from PIL import Image

from lamd_jax.evaluation import spread
from lamd_jax.networks import clip_image


def prepare(frames: np.ndarray, size: int = 224) -> np.ndarray:
  """Frames [N,H,W,3] uint8 -> [N,size,size,3] float32, normalised for CLIP.

  The short side to `size` by Pillow's bicubic, which rounds to whole levels between
  its two passes (13 % of pixels differ by a level otherwise), then the middle square.
  """
  height, width = frames.shape[1:3]
  short = min(height, width)
  long = int(size * max(height, width) / short)
  new_height, new_width = (size, long) if height == short else (long, size)
  top, left = (int(round((n - size) / 2)) for n in (new_height, new_width))
  box = (slice(top, top + size), slice(left, left + size))
  bicubic = Image.Resampling.BICUBIC
  squares = np.stack([
    np.asarray(Image.fromarray(f).resize((new_width, new_height), bicubic))[box]
    for f in frames
  ])
  return (squares.astype(np.float32) / 255 - clip_image.MEAN) / clip_image.STD


@functools.lru_cache(maxsize=4)
def _function(network: clip_image.ClipImage) -> Callable[..., jax.Array]:
  return lambda params, pictures: network.apply({"params": params}, pictures)


class Extractor:
  """An image tower with its parameters on all devices."""

  def __init__(self, network: clip_image.ClipImage, params: Any, batch: int = 16):
    """Args: the tower, its parameters (`interchange.clip_image.load`), frames at once."""
    self._size = network.size
    self._spread = spread.OverDevices(_function(network), params, batch)

  def __call__(self, clips: Iterable[np.ndarray]) -> np.ndarray:
    """Returns [N,T,projection] float32 of clips [T,H,W,3] uint8, at any size."""
    frames = 0

    def pictures() -> Iterator[tuple[np.ndarray]]:
      nonlocal frames
      for clip in clips:
        frames = len(clip)
        yield from ((picture,) for picture in prepare(clip, self._size))

    found = np.concatenate(list(self._spread(pictures())))
    return found.reshape(-1, frames, found.shape[-1])
