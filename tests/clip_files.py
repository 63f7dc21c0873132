# SPDX-License-Identifier: Apache-2.0
"""Clips of moving waves, drawn in no time, for tests of scores."""

import numpy as np


def waves(count, frames=16, size=32, seed=0):
  """Returns [count,frames,size,size,3] uint8: four plane waves that travel, in colour."""
  draw = np.random.RandomState(seed)
  y, x = np.mgrid[:size, :size] / size
  t = np.arange(frames)[:, None, None]
  clips = []
  for _ in range(count):
    clip = np.zeros((frames, size, size, 3)) + draw.uniform(90, 160, 3)
    for _ in range(4):
      k, speed = draw.uniform(-5, 5, 2) * 2 * np.pi, draw.uniform(-0.6, 0.6)
      phase = k[0] * x + k[1] * y + draw.uniform(0, 6.3) + speed * t
      clip += np.sin(phase)[..., None] * draw.uniform(-1, 1, 3) * 40
    clips.append(np.clip(clip, 0, 255).astype(np.uint8))
  return np.stack(clips)
