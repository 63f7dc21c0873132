# SPDX-License-Identifier: Apache-2.0
"""Records that travel between the parts. NumPy-only: data code imports them too.

A clip is `[B,T,H,W,C]`; an image is a clip with T=1; a motion map is a clip with
T=1. Pixels are uint8 until the device and float in [-1,1] after it.

All records are NamedTuples, hence pytrees as they are; a field that is absent is
None and contributes no leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# A NumPy or JAX array. `types` may not import jax, so the alias is wide.
Array = Any


class VideoBatch(NamedTuple):
  """A batch of clips as the data pipeline yields it.

  `index` is the position of each example in the global data order, not its row in
  this host's batch. Noise is drawn by it, so that another number of hosts sees the
  same noise on the same clip.
  """

  video: Array  # [B,T,H,W,C] uint8
  index: Array  # [B] int32
  label: Array | None = None  # [B] int32 class
  tokens: Array | None = None  # [B,N] int32, the caption
  depth: Array | None = None  # [B,T,H,W,1] uint8 inverse depth, see normalise_depth


class LatentBatch(NamedTuple):
  """A batch from the latent cache: a posterior, from which each visit draws afresh."""

  mean: Array  # [B,t,h,w,c] float32, raw latents (before shift and scale)
  log_variance: Array  # [B,t,h,w,c] float32
  index: Array  # [B] int32, as in VideoBatch
  label: Array | None = None  # [B] int32 class
  tokens: Array | None = None  # [B,N] int32, the caption
  image: Array | None = None  # [B,1,H,W,3] uint8, first frames, where content is apart
  depth: Array | None = None  # [B,T,H,W,1] uint8, as in VideoBatch
  embedding: Array | None = None  # [B,T,D] float32, of each frame's content


class Prompt(NamedTuple):
  """What each clip of a batch is to show; None where nothing is said."""

  tokens: Array | None = None  # [B,N] int32, the caption
  label: Array | None = None  # [B] int32 class
  image: Array | None = None  # [B,1,H,W,3] uint8, what moves or what it shall look like
  depth: Array | None = None  # [B,T,H,W,1] uint8, the structure to keep
  structure_level: Array | None = None  # [B] int32, how far the depth is degraded


class Conditions(NamedTuple):
  """What enters the network beside z and t; nothing that acts on the state.

  `keep` maps a field's name to a flag per row, [B] float32 in {0, 1}; 0 makes the
  network see that field as absent (zero mask or concat channels, no embedding,
  the null token). A field without a flag is kept in every row.
  """

  context: Array | None = None  # [B,N,D] float, cross-attention tokens
  concat: Array | None = None  # [B,T,h,w,C] float, joined to z on channels
  mask: Array | None = None  # [B,T,1,1,1] float, 1 at known frames; a channel
  noise_level: Array | None = None  # [B] int32, an embedding is added to that of t
  label: Array | None = None  # [B] int32, likewise
  keep: Mapping[str, Array] | None = None
