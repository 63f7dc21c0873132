# SPDX-License-Identifier: Apache-2.0
"""Simple features of a clip, for scores that need no pretrained network.

They say whether generated clips have the colours, the spatial detail and the motion
of real ones. They are no substitute for FVD and are never called so.
"""

from __future__ import annotations

import numpy as np

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709
_BANDS = 4

NAMES = (
  "mean_red", "mean_green", "mean_blue", "std_red", "std_green", "std_blue",
  *(f"log_power_band{i}" for i in range(_BANDS)),
  "difference_lag1", "difference_lag1_over_time", "difference_half_clip",
)  # fmt: skip


def _log_band_powers(luma: np.ndarray) -> np.ndarray:
  """log10 power of luma [T,H,W] in octave bands of spatial frequency, [_BANDS].

  Band i holds frequencies in [Nyquist/2^(i+1), Nyquist/2^i); the mean is not in any.
  """
  power = np.square(np.abs(np.fft.fft2(luma, norm="ortho"))).mean(0)
  rows = np.fft.fftfreq(luma.shape[1])[:, None]
  columns = np.fft.fftfreq(luma.shape[2])[None]
  radius = np.maximum(np.hypot(rows, columns), 1e-9)
  octave = np.floor(np.log2(0.5 / radius)).clip(0, None)
  # 1e-4 (of grey levels squared over 255^2) is below one grey level: flat frames
  # get a finite value, and noise below quantisation does not count.
  return np.array([
    np.log10(power[octave == i].mean() + 1e-4) if (octave == i).any() else 0.0
    for i in range(_BANDS)
  ])


def clip_features(clips: np.ndarray) -> np.ndarray:
  """Returns float64 [N, len(NAMES)] of clips [N,T,H,W,3] uint8, T >= 2."""
  rows = []
  for clip in clips:
    pixels = clip.astype(np.float64) / 255
    luma = pixels @ _LUMA
    differences = np.abs(np.diff(luma, axis=0)).mean((1, 2))
    half = max(1, len(luma) // 2)
    rows.append([
      *pixels.mean((0, 1, 2)),
      *pixels.std((0, 1, 2)),
      *_log_band_powers(luma),
      differences.mean(),
      differences.std(),
      np.abs(luma[half:] - luma[:-half]).mean(),
    ])
  return np.array(rows)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Peak signal-to-noise ratio in dB of each clip, [N], of uint8 [N,T,H,W,3].

  The squared error is averaged over the whole clip before the logarithm; equal clips
  give 100 dB.
  """
  error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean((1, 2, 3, 4))
  return 10 * np.log10(255**2 / np.maximum(error, 255**2 * 1e-10))
