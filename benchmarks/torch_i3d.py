# SPDX-License-Identifier: Apache-2.0
"""A plain torch I3D under the names of piergiaj's port: the peer of `networks.i3d`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

MIXED = {
  "Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64),
  "Mixed_4b": (192, 96, 208, 16, 48, 64), "Mixed_4c": (160, 112, 224, 24, 64, 64),
  "Mixed_4d": (128, 128, 256, 24, 64, 64), "Mixed_4e": (112, 144, 288, 32, 64, 64),
  "Mixed_4f": (256, 160, 320, 32, 128, 128),
  "Mixed_5b": (256, 160, 320, 32, 128, 128), "Mixed_5c": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def pad_same(x, size, stride):
  """Zeros around (T,H,W), the odd one behind."""
  pads = []
  for n, k, s in zip(x.shape[2:], size, stride):
    over = k - s if n % s == 0 else k - n % s
    pads = [max(over, 0) // 2, max(over, 0) - max(over, 0) // 2, *pads]
  return F.pad(x, pads)


class Unit(nn.Module):
  def __init__(self, i, o, size, epsilon, stride=1, last=False):
    super().__init__()
    self.size, self.stride = (size,) * 3, (stride,) * 3
    self.conv3d = nn.Conv3d(i, o, size, stride, bias=last)
    if not last:
      self.bn = nn.BatchNorm3d(o, eps=epsilon)

  def forward(self, x):
    return F.relu(self.bn(self.conv3d(pad_same(x, self.size, self.stride))))


def pool(x, size, stride):
  return F.max_pool3d(pad_same(x, size, stride), size, stride)


class Mixed(nn.Module):
  def __init__(self, i, widths, epsilon):
    super().__init__()
    a, b, c, d, e, f = widths
    unit = lambda i, o, size: Unit(i, o, size, epsilon)
    self.b0 = unit(i, a, 1)
    self.b1a, self.b1b = unit(i, b, 1), unit(b, c, 3)
    self.b2a, self.b2b = unit(i, d, 1), unit(d, e, 3)
    self.b3b = unit(i, f, 1)

  def forward(self, x):
    pooled = pool(x, (3, 3, 3), (1, 1, 1))
    parts = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled))
    return torch.cat(parts, 1)


class I3D(nn.Module):
  """Clips [B,3,T,H,W] float32 in [-1,1], H = W = 32 edge -> scores [B,classes].

  All widths are divided by `divide`, 1 in the published network.
  """

  def __init__(self, divide, classes, edge, epsilon):
    super().__init__()
    self.edge = edge
    width = lambda n: n // divide
    self.Conv3d_1a_7x7 = Unit(3, width(64), 7, epsilon, 2)
    self.Conv3d_2b_1x1 = Unit(width(64), width(64), 1, epsilon)
    self.Conv3d_2c_3x3 = Unit(width(64), width(192), 3, epsilon)
    channels = width(192)
    for name, widths in MIXED.items():
      widths = [width(n) for n in widths]
      setattr(self, name, Mixed(channels, widths, epsilon))
      channels = widths[0] + widths[2] + widths[4] + widths[5]
    self.logits = Unit(channels, classes, 1, epsilon, last=True)

  def forward(self, x):
    x = pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
    x = pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
    x = self.Mixed_3c(self.Mixed_3b(x))
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for name in "bcdef":
      x = getattr(self, f"Mixed_4{name}")(x)
    x = pool(x, (2, 2, 2), (2, 2, 2))
    x = F.avg_pool3d(self.Mixed_5c(self.Mixed_5b(x)), (2, self.edge, self.edge), 1)
    return self.logits.conv3d(x)[..., 0, 0].mean(2)
