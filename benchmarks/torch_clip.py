# SPDX-License-Identifier: Apache-2.0
"""A finished clip by the torch twin, sampled as the published program does it."""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
import torch


def ddim_clip(
  unet: Callable, decode: Callable, z: torch.Tensor, steps: int
) -> torch.Tensor:
  """A finished clip the released way: DDIM with eta 1, then decoding.

  Args:
    unet: the denoiser, called as (z, t).
    decode: latents -> clip.
    z: [B,C,T,h,w], starting noise.
    steps: of the chain; times are 1, 1 + 1000/steps, ...
  """
  betas = np.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2
  kept = np.cumprod(1 - betas)  # abar
  times = np.arange(0, 1000, 1000 // steps) + 1
  before = np.append(kept[0], kept[times[:-1]])
  for t, here, there in list(zip(times, kept[times], before))[::-1]:
    eps = unet(z, torch.full((len(z),), int(t)))
    sigma = math.sqrt((1 - there) / (1 - here) * (1 - here / there))
    x0 = (z - math.sqrt(1 - here) * eps) / math.sqrt(here)
    z = math.sqrt(there) * x0 + math.sqrt(max(1 - there - sigma**2, 0)) * eps
    z = z + sigma * torch.randn_like(z)
  clip = decode(z / 0.33422927 - 1.4606637)
  return ((clip + 1) * 127.5).clamp(0, 255).to(torch.uint8)
