# SPDX-License-Identifier: Apache-2.0
"""A finished clip, as Python gives it to its users."""

from __future__ import annotations

import base64
import os
from typing import NamedTuple

from etils import epath
import numpy as np

from lamd_jax import media


class Clip(NamedTuple):
  """A finished clip: frames [T,H,W,3] uint8, fps frames a second."""

  frames: np.ndarray
  fps: float

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the clip; the suffix says how: .mp4, .gif or .npz."""
    suffix = epath.Path(path).suffix
    if suffix == ".mp4":
      media.write_mp4(path, self.frames, self.fps)
    elif suffix == ".gif":
      media.write_gif(path, self.frames, self.fps)
    elif suffix == ".npz":
      media.write_npz(path, self.frames[None])
    else:
      raise ValueError(f"{path}: unknown suffix; use .mp4, .gif or .npz")

  def _repr_html_(self) -> str:
    data = base64.b64encode(media.encode_gif(self.frames, self.fps)).decode()
    return f'<img src="data:image/gif;base64,{data}" width="256">'
