# SPDX-License-Identifier: Apache-2.0
"""From frames to CLIP's image features, prepared on the host as the originals do it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from PIL import Image

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


@functools.partial(jax.jit, static_argnums=0)
def _apply(network: clip_image.ClipImage, params: Any, pictures: jax.Array) -> jax.Array:
  return network.apply({"params": params}, pictures)


def features(
  network: clip_image.ClipImage, params: Any, clips: np.ndarray, batch: int = 16
) -> np.ndarray:
  """Returns [N,T,projection] float32 of clips [N,T,H,W,3] uint8.

  Args:
    network: the tower.
    params: of `interchange.clip_image.load`.
    clips: at any size.
    batch: frames at once.
  """
  frames = clips.reshape(-1, *clips.shape[2:])
  found: list[np.ndarray] = []
  for start in range(0, len(frames), batch):
    part = frames[start : start + batch]
    # One shape, one compilation: the last batch repeats its last frame.
    fill = ((0, batch - len(part)), (0, 0), (0, 0), (0, 0))
    pictures = prepare(np.pad(part, fill, mode="edge"), network.size)
    found.append(np.asarray(_apply(network, params, pictures))[: len(part)])
  return np.concatenate(found).reshape(*clips.shape[:2], -1)
