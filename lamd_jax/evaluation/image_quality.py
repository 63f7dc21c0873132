# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and LPIPS of pairs of clips: by frame, then means over frames and clips.

Clips are uint8 [N,T,H,W,3]: values are clipped and rounded before they are compared,
as they would be in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.errors import DataError
from lamd_jax.evaluation import spread
from lamd_jax.networks import perceptual


class Psnr(NamedTuple):
  """dB by clip; frames without any error have no PSNR and are counted apart."""

  clips: np.ndarray  # [N] float64, mean over frames that differ; inf where none does
  identical_frames: int


def _check(a: np.ndarray, b: np.ndarray) -> None:
  if a.shape != b.shape or a.ndim != 5 or not a.dtype == b.dtype == np.uint8:
    raise DataError(
      f"clips are {a.dtype} {a.shape} and {b.dtype} {b.shape}; pairs of uint8"
      " [N,T,H,W,3] are compared"
    )


def psnr(a: np.ndarray, b: np.ndarray) -> Psnr:
  """Peak signal-to-noise ratio, a mean of the frames' decibels.

  `features.psnr` pools the squared error of a whole clip first, as PVDM does: another
  number, never larger.
  """
  _check(a, b)
  clips, identical = [], 0
  for x, y in zip(a, b):
    error = np.square(x.astype(np.float64) - y).mean((1, 2, 3))
    found = 10 * np.log10(255**2 / error[error > 0])
    identical += int((error == 0).sum())
    clips.append(found.mean() if len(found) else np.inf)
  return Psnr(np.array(clips), identical)


def _smooth(x: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Weighted means of x [T,H,W,C] where a symmetric window fits, along H and W."""
  for axis in (1, 2):
    count = x.shape[axis] - len(window) + 1
    at = lambda k: x[(slice(None),) * axis + (slice(k, k + count),)]
    total = window[0] * at(0)
    for k in range(1, len(window)):
      total += window[k] * at(k)
    x = total
  return x


def _ssim(a: np.ndarray, b: np.ndarray, window: np.ndarray, bessel: float) -> np.ndarray:
  """SSIM [N] with a separable window; second moments are scaled by `bessel`."""
  _check(a, b)
  if min(a.shape[2:4]) < len(window):
    raise DataError(
      f"frames are {a.shape[3]}x{a.shape[2]}; SSIM needs {len(window)} pixels or more"
    )
  smooth = lambda x: _smooth(x, window)
  c1, c2 = 0.01**2, 0.03**2  # of values in [0,1]
  found = []
  for x, y in zip(a, b):
    x, y = x / 255.0, y / 255.0
    mx, my = smooth(x), smooth(y)
    vx, vy = bessel * (smooth(x * x) - mx**2), bessel * (smooth(y * y) - my**2)
    vxy = bessel * (smooth(x * y) - mx * my)
    top = (2 * mx * my + c1) * (2 * vxy + c2)
    found.append((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
  return np.array(found)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Structural similarity by clip [N] (Wang et al. 2004): Gaussian window, sigma 1.5.

  11x11 pixels, where the window fits; mean over frames and colours.
  """
  window = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
  return _ssim(a, b, window / window.sum(), 1.0)


def ssim_skimage7(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """SSIM as scikit-image computes it by default, and some papers did: uniform 7x7."""
  return _ssim(a, b, np.full(7, 1 / 7), 49 / 48)


class Lpips:
  """LPIPS with its parameters on all devices."""

  def __init__(self, params: perceptual.Params, batch: int = 16):
    """Args: of `interchange.perceptual.load`; pairs of frames at once."""
    self._spread = spread.OverDevices(_distance, params, batch)

  def __call__(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns means over frames, [N] float64, of pairs of clips [T,H,W,3] uint8.

    Frames have at least 16 pixels a side; all clips have as many frames.
    """
    frames = 0

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
      nonlocal frames
      for a, b in pairs:
        _check(a[None], b[None])
        frames = len(a)
        yield from zip(a, b)

    found = np.concatenate(list(self._spread(rows())))
    return found.astype(np.float64).reshape(-1, frames).mean(1)


def lpips(
  params: perceptual.Params, a: np.ndarray, b: np.ndarray, batch: int = 16
) -> np.ndarray:
  """LPIPS by clip [N] float64 of clips [N,T,H,W,3]; see `Lpips`."""
  _check(a, b)
  return Lpips(params, batch)(zip(a, b))


def _distance(params: Any, a: jax.Array, b: jax.Array) -> jax.Array:
  scale = lambda x: x.astype(jnp.float32) / 127.5 - 1
  return perceptual.distance(params, scale(a), scale(b))


# Those that need no weights.
PAIRED: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "PSNR (frames' mean, dB)": lambda a, b: psnr(a, b).clips,
  "SSIM (Gaussian 11x11)": ssim,
  "SSIM (scikit-image default 7x7)": ssim_skimage7,
}
