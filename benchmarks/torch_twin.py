# SPDX-License-Identifier: Apache-2.0
"""A plain torch twin of LVDM's UNet and 3D autoencoder, to measure ours against.

Written from the published layer tables, with the module names of the published
checkpoints, and checked against the same fixtures as our networks
(`tests/benchmarks/test_torch_twin.py`), so that both sides of a benchmark compute the
same function. It is what a good torch user would write: Conv3d kernels (1,3,3),
`nn.GroupNorm`, `scaled_dot_product_attention`; nothing is slowed down on purpose.

Clips are channels first here, `[B,C,T,H,W]`. Only benchmarks and tests import this.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def timestep_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
  """Cosines, then sines, of t [B] -> [B,dim]."""
  half = dim // 2
  freqs = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)
  angles = t.float()[:, None] * freqs
  return torch.cat([angles.cos(), angles.sin()], 1)


class FrameConv(nn.Conv3d):
  """A convolution (1,k,k) over each frame: as 3D, or 2D with frames in the batch.

  Torch chooses its kernel by a rule of thumb on the shape that sends small batches of
  clips to the slow one; which form is faster depends on the case and is measured.
  """

  folded = False

  def __init__(self, source: int, target: int, kernel: int = 3, stride: int = 1):
    padding = (0, kernel // 2, kernel // 2)
    super().__init__(source, target, (1, kernel, kernel), (1, stride, stride), padding)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    if not self.folded:
      return super().forward(x)
    b, _, t, _, _ = x.shape
    frames = x.transpose(1, 2).flatten(0, 1)
    weight = self.weight.squeeze(2)
    y = F.conv2d(frames, weight, self.bias, self.stride[1:], self.padding[1:])
    return y.unflatten(0, (b, t)).transpose(1, 2)


class ResBlock(nn.Module):
  """GN, SiLU, conv; GN scaled and shifted by the embedding, SiLU, conv; skip."""

  def __init__(self, channels: int, emb_channels: int, out_channels: int):
    super().__init__()
    self.in_layers = nn.Sequential(
      nn.GroupNorm(32, channels),
      nn.SiLU(),
      FrameConv(channels, out_channels),
    )
    embedding = nn.Linear(emb_channels, 2 * out_channels)
    self.emb_layers = nn.Sequential(nn.SiLU(), embedding)
    self.out_layers = nn.Sequential(
      nn.GroupNorm(32, out_channels),
      nn.SiLU(),
      nn.Identity(),  # the place of dropout, which keeps the published index 3
      FrameConv(out_channels, out_channels),
    )
    same = channels == out_channels
    skip = nn.Identity() if same else FrameConv(channels, out_channels, 1)
    self.skip_connection = skip

  def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    h = self.in_layers(x)
    scale, shift = self.emb_layers(emb)[:, :, None, None, None].chunk(2, 1)
    h = self.out_layers[0](h) * (1 + scale) + shift
    return self.skip_connection(x) + self.out_layers[1:](h)


class RelativePosition(nn.Module):
  """A table row for each clipped offset j - i."""

  def __init__(self, dim: int, reach: int):
    super().__init__()
    self.reach = reach
    self.embeddings_table = nn.Parameter(torch.empty(2 * reach + 1, dim))
    nn.init.xavier_uniform_(self.embeddings_table)

  def forward(self, length: int) -> torch.Tensor:
    """Returns [length,length,dim]."""
    at = torch.arange(length, device=self.embeddings_table.device)
    offset = (at[None, :] - at[:, None]).clamp(-self.reach, self.reach)
    return self.embeddings_table[offset + self.reach]


class STAttentionBlock(nn.Module):
  """Self-attention over a frame's pixels, then over a pixel's frames."""

  def __init__(self, channels: int, heads: int, length: int):
    super().__init__()
    self.heads = heads
    self.norm_s = nn.GroupNorm(32, channels)
    self.norm_t = nn.GroupNorm(32, channels)
    self.qkv_s = nn.Conv1d(channels, 3 * channels, 1)
    self.qkv_t = nn.Conv1d(channels, 3 * channels, 1)
    self.relative_position_k = RelativePosition(channels // heads, length)
    self.relative_position_v = RelativePosition(channels // heads, length)
    self.proj_out_s = nn.Conv1d(channels, channels, 1)
    self.proj_out_t = nn.Conv1d(channels, channels, 1)

  def _heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # [N,3C,L] -> three of [N,heads,L,C/heads]
    n, c, length = qkv.shape
    parts = qkv.view(n, 3, self.heads, c // (3 * self.heads), length)
    return parts.transpose(3, 4).unbind(1)

  def spatial(self, x: torch.Tensor) -> torch.Tensor:
    """x [B*T,C,H*W]."""
    q, k, v = self._heads(self.qkv_s(self.norm_s(x)))
    out = F.scaled_dot_product_attention(q, k, v)
    return x + self.proj_out_s(out.transpose(2, 3).reshape(x.shape))

  def temporal(self, x: torch.Tensor) -> torch.Tensor:
    """x [B*H*W,C,T]. The key bias is that of (j, i), as in the released weights."""
    q, k, v = self._heads(self.qkv_t(self.norm_t(x)))
    scale = q.shape[-1] ** -0.5
    rel_k = self.relative_position_k(x.shape[-1])
    rel_v = self.relative_position_v(x.shape[-1])
    # The published scale on q alone is the square root of that on the product.
    bias = torch.einsum("nhjc,jic->nhij", q, rel_k) * math.sqrt(scale)
    weights = (torch.einsum("nhic,nhjc->nhij", q, k) * scale + bias).softmax(-1)
    out = weights @ v + torch.einsum("nhij,ijc->nhic", weights, rel_v)
    return x + self.proj_out_t(out.transpose(2, 3).reshape(x.shape))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    b, c, t, h, w = x.shape
    x = x.transpose(1, 2).reshape(b * t, c, h * w)
    x = self.spatial(x)
    x = x.view(b, t, c, h * w).permute(0, 3, 2, 1).reshape(b * h * w, c, t)
    x = self.temporal(x)
    return x.view(b, h, w, c, t).permute(0, 3, 4, 1, 2)


class Downsample(nn.Module):

  def __init__(self, channels: int):
    super().__init__()
    self.op = FrameConv(channels, channels, stride=2)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.op(x)


class Upsample(nn.Module):

  def __init__(self, channels: int):
    super().__init__()
    self.conv = FrameConv(channels, channels)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))


class Sequential(nn.Sequential):
  """Hands the embedding to the blocks that take one."""

  def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    for layer in self:
      x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
    return x


class UNet(nn.Module):
  """LVDM's short-clip UNet: z [B,C,T,h,w], t [B] -> [B,C,T,h,w]."""

  def __init__(
    self,
    in_channels: int,
    channels: int,
    channel_mult: tuple[int, ...],
    res_blocks: int,
    attention_downsample: tuple[int, ...],
    heads: int,
    temporal_length: int,
  ):
    super().__init__()
    self.channels = channels
    emb = 4 * channels
    self.time_embed = nn.Sequential(
      nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb)
    )

    def stage(source: int, target: int, down: int) -> list[nn.Module]:
      blocks: list[nn.Module] = [ResBlock(source, emb, target)]
      if down in attention_downsample:
        blocks.append(STAttentionBlock(target, heads, temporal_length))
      return blocks

    first = FrameConv(in_channels, channels)
    self.input_blocks = nn.ModuleList([Sequential(first)])
    skips, width = [channels], channels
    for level, mult in enumerate(channel_mult):
      for _ in range(res_blocks):
        blocks = stage(width, mult * channels, 2**level)
        width = mult * channels
        self.input_blocks.append(Sequential(*blocks))
        skips.append(width)
      if level + 1 < len(channel_mult):
        self.input_blocks.append(Sequential(Downsample(width)))
        skips.append(width)
    self.middle_block = Sequential(
      ResBlock(width, emb, width),
      STAttentionBlock(width, heads, temporal_length),
      ResBlock(width, emb, width),
    )
    self.output_blocks = nn.ModuleList()
    for level, mult in reversed(list(enumerate(channel_mult))):
      for i in range(res_blocks + 1):
        blocks = stage(width + skips.pop(), mult * channels, 2**level)
        width = mult * channels
        if level and i == res_blocks:
          blocks.append(Upsample(width))
        self.output_blocks.append(Sequential(*blocks))
    self.out = nn.Sequential(
      nn.GroupNorm(32, width),
      nn.SiLU(),
      FrameConv(width, in_channels),
    )

  def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    emb = self.time_embed(timestep_embedding(t, self.channels).to(z.dtype))
    x, skips = z, []
    for block in self.input_blocks:
      x = block(x, emb)
      skips.append(x)
    x = self.middle_block(x, emb)
    for block in self.output_blocks:
      x = block(torch.cat([x, skips.pop()], 1), emb)
    return self.out(x)


class SamePadConv3d(nn.Module):
  """Convolution after replicate padding that keeps size / stride."""

  def __init__(self, source: int, target: int, kernel: int, stride=(1, 1, 1)):
    super().__init__()
    pads = [kernel - s for s in stride]
    self.pad = tuple(q for p in reversed(pads) for q in (p // 2 + p % 2, p // 2))
    self.conv = nn.Conv3d(source, target, kernel, stride)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.conv(F.pad(x, self.pad, mode="replicate") if any(self.pad) else x)


class SamePadConvTranspose3d(nn.Module):
  """Transposed convolution, input replicate-padded alike: size * stride."""

  def __init__(self, source: int, target: int, kernel: int, stride):
    super().__init__()
    pads = [kernel - s for s in stride]
    self.pad = tuple(q for p in reversed(pads) for q in (p // 2 + p % 2, p // 2))
    self.convt = nn.ConvTranspose3d(source, target, kernel, stride, kernel - 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.convt(F.pad(x, self.pad, mode="replicate"))


def _norm(channels: int) -> nn.GroupNorm:
  return nn.GroupNorm(32, channels, eps=1e-6)


class AutoencoderResBlock(nn.Module):

  def __init__(self, channels: int):
    super().__init__()
    self.norm1, self.norm2 = _norm(channels), _norm(channels)
    self.conv1 = SamePadConv3d(channels, channels, 3)
    self.conv2 = SamePadConv3d(channels, channels, 3)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    h = self.conv1(F.silu(self.norm1(x)))
    return x + self.conv2(F.silu(self.norm2(h)))


def _strides(downsample: tuple[int, int, int]) -> list[tuple[int, ...]]:
  """The stride of each level: 2 on an axis until its factor is reached."""
  levels = [int(math.log2(d)) for d in downsample]
  return [tuple(2 if i < n else 1 for n in levels) for i in range(max(levels))]


class Encoder(nn.Module):

  def __init__(self, channels: int, downsample: tuple[int, int, int], latent: int):
    super().__init__()
    self.conv_first = SamePadConv3d(3, channels, 3)
    self.conv_blocks = nn.ModuleList()
    for i, stride in enumerate(_strides(downsample)):
      wide = channels * 2 ** (i + 1)
      down = SamePadConv3d(wide // 2, wide, 4, stride)
      self.conv_blocks.append(
        nn.ModuleDict({"down": down, "res": AutoencoderResBlock(wide)})
      )
    self.final_block = nn.Sequential(
      _norm(wide), nn.SiLU(), SamePadConv3d(wide, 2 * latent, 3)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.conv_first(x)
    for block in self.conv_blocks:
      x = block["res"](block["down"](x))
    return self.final_block(x)


class Decoder(nn.Module):

  def __init__(self, channels: int, downsample: tuple[int, int, int], latent: int):
    super().__init__()
    self.conv_blocks = nn.ModuleList()
    strides = _strides(downsample)
    width = latent
    for i, stride in enumerate(strides):
      wide = channels * 2 ** (len(strides) - i)
      self.conv_blocks.append(
        nn.ModuleDict({
          "up": SamePadConvTranspose3d(width, wide, 4, stride),
          "res1": AutoencoderResBlock(wide),
          "res2": AutoencoderResBlock(wide),
        })
      )
      width = wide
    self.conv_out = SamePadConv3d(width, 3, 3)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    for block in self.conv_blocks:
      x = block["res2"](block["res1"](block["up"](x)))
    return self.conv_out(x)


class VideoAutoencoder(nn.Module):
  """LVDM's 3D autoencoder: clips [B,3,T,H,W] <-> latents [B,latent,t,h,w]."""

  def __init__(self, channels: int, downsample: tuple[int, int, int], latent: int):
    super().__init__()
    self.encoder = Encoder(channels, downsample, latent)
    self.decoder = Decoder(channels, downsample, latent)
    self.quant_conv = SamePadConv3d(2 * latent, 2 * latent, 1)
    self.post_quant_conv = SamePadConv3d(latent, latent, 1)

  def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (mean, log_variance)."""
    mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, 1)
    return mean, log_variance.clamp(-30, 20)

  def decode(self, z: torch.Tensor) -> torch.Tensor:
    return self.decoder(self.post_quant_conv(z))


# Ways to run the same network, for a benchmark to try them all and keep the fastest:
# name -> (memory format, frames folded into the batch).
FORMS = {
  "plain": (torch.contiguous_format, False),
  "channels_last": (torch.channels_last_3d, False),
  "folded": (torch.channels_last_3d, True),
  "compiled": (torch.channels_last_3d, True),  # and then torch.compile
}


def in_form(module: nn.Module, form: str) -> nn.Module:
  """Returns `module`, set to run as FORMS[form] says. Inputs need no change."""
  memory_format, folded = FORMS[form]
  for m in module.modules():
    if isinstance(m, FrameConv):
      m.folded = folded
  return module.to(memory_format=memory_format)


def fill(module: nn.Module) -> nn.Module:
  """Fills the parameters by the fixtures' rule: numbers drawn from the key's CRC."""
  modules = module.named_modules()
  norms = {f"{name}.weight" for name, m in modules if isinstance(m, nn.GroupNorm)}
  with torch.no_grad():
    for key, p in module.named_parameters():
      draw = np.random.RandomState(zlib.crc32(key.encode()))
      n = draw.standard_normal(tuple(p.shape)).astype(np.float32) * np.float32(0.05)
      p.copy_(torch.from_numpy(n + np.float32(key in norms)))
  return module
