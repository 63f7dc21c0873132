# SPDX-License-Identifier: Apache-2.0
"""A tiny DPT's weights and pictures, which the recorded numbers belong to."""

import network_fill
import numpy as np

# As published but for its width: 16 pixels a patch, positions for 4x4 patches.
SIZES = ((64, 64), (32, 96), (96, 64))


def state(shapes):
  """Returns {name: array} in transformers' names, norms and biases included.

  Args:
    shapes: {name: shape}.
  """
  scales = {k: "layernorm" in k and k.endswith("weight") for k in shapes}
  filled = network_fill.state({k: tuple(v) for k, v in shapes.items()}, scales)
  for name in filled:
    if ".embeddings." in name:
      # Small tokens, so that the epsilon of the first norm is seen.
      filled[name] = filled[name] * np.float32(0.05)
  # Above the last ReLU, or there is nothing to compare.
  filled["head.head.4.weight"] = filled["head.head.4.weight"] * np.float32(0.02)
  filled["head.head.4.bias"] = filled["head.head.4.bias"] + np.float32(6)
  return filled


def pictures(height, width):
  """Returns [2,height,width,3] float32 in [-1,1], the same in every NumPy."""
  draw = np.random.RandomState(height).uniform(-1, 1, (2, height, width, 3))
  return draw.astype(np.float32)


def frames():
  """Returns [1,80,120,3] uint8, likewise."""
  return np.random.RandomState(1).randint(0, 256, (1, 80, 120, 3)).astype(np.uint8)


def depth():
  """Returns inverse depth [2,8,12] float32, likewise."""
  return np.random.RandomState(2).uniform(0, 1, (2, 8, 12)).astype(np.float32)
