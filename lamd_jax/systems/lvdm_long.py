# SPDX-License-Identifier: Apache-2.0
"""Long video, one unit at a time (LVDM, arXiv 2211.13221, section 3.3).

A unit goes on from `known` latents and yields new ones together with those that the
next unit goes on from. Units have one shape, so one compiled program makes a video of
any length. Several videos are made side by side: V rows, each with a key of its own.

  autoregressive  a clip goes on from the last latents of the one before
  hierarchical    keyframes go on from keyframes; then every gap between two of them is
                  filled by interpolation
  sliding         a model of short clips alone: windows over the whole length, averaged
                  at every step (a baseline)
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.systems import lvdm
from lamd_jax.systems import pixels
from lamd_jax.systems import sampling
from lamd_jax.training import stage as stage_lib


@dataclasses.dataclass(frozen=True)
class LongSettings:
  """The knobs of a long video; static."""

  how: str  # a key of UNITS, or sliding
  noise_level: int  # of the known frames; see LVDM.conditional_clip
  null: str  # likewise
  sampler: sampling.SamplerSettings


def _go_on(
  system: lvdm.LVDM, stage: str, weights: stage_lib.Frozen, streams: rng.Streams,
  told: jax.Array, known: jax.Array, settings: LongSettings,
) -> jax.Array:  # fmt: skip
  """Clips [V,T,h,w,c] that begin with known [V,n,h,w,c]; from nothing if told is 0."""
  length = system.config[stage].latents
  videos, count = known.shape[:2]
  begins = (np.arange(length) < count).astype(np.float32)[:, None, None, None]
  filled = jnp.zeros((videos, length, *known.shape[2:])).at[:, :count].set(known)
  return system.conditional_clip(
    stage, weights, streams, jnp.zeros(videos, jnp.int32),
    told[:, None, None, None, None] * begins, filled, settings.sampler,
    noise_level=settings.noise_level, null=settings.null,
  )  # fmt: skip


def _fill_gaps(
  system: lvdm.LVDM, weights: stage_lib.Frozen, streams: rng.Streams,
  keyframes: jax.Array, settings: LongSettings,
) -> jax.Array:  # fmt: skip
  """Interpolates each gap of keyframes [V,K,h,w,c]: latents [V,(K-1) g,h,w,c].

  A gap gives its first keyframe and what lies between; its last belongs to the next.
  """
  length = system.config.interpolation.latents
  videos, gaps, shape = len(keyframes), keyframes.shape[1] - 1, keyframes.shape[2:]
  mask = np.zeros((videos * gaps, length, 1, 1, 1), np.float32)
  mask[:, [0, -1]] = 1
  rows = lambda x: x.reshape(videos * gaps, *shape)
  known = jnp.zeros((videos * gaps, length, *shape))
  known = known.at[:, 0].set(rows(keyframes[:, :-1]))
  known = known.at[:, -1].set(rows(keyframes[:, 1:]))
  streams = streams._replace(root=jnp.repeat(streams.root, gaps))
  clips = system.conditional_clip(
    "interpolation", weights, streams, jnp.tile(jnp.arange(gaps), videos),
    jnp.asarray(mask), known, settings.sampler, noise_level=settings.noise_level,
    null=settings.null,
  )  # fmt: skip
  return clips[:, :-1].reshape(videos, -1, *shape)


def autoregressive(
  system: lvdm.LVDM, weights: stage_lib.Frozen, roots: jax.Array, told: jax.Array,
  known: jax.Array, settings: LongSettings,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """A unit of consecutive frames of each video.

  Args:
    system: the networks.
    weights: by stage.
    roots: [V], the units' keys.
    told: [V] float, 0 for a unit that begins a video, else 1.
    known: [V,n,h,w,c] latents to go on from; they are the unit's first.
    settings: static.

  Returns:
    (latents [V,u,h,w,c] of the units, known [V,n,h,w,c] of the next)
  """
  stage, count = system.dense_stage(), known.shape[1]
  streams = rng.Streams(roots, jnp.zeros((), jnp.int32))
  clips = _go_on(system, stage, weights, streams, told, known, settings)
  return clips[:, :-count], clips[:, -count:]


def hierarchical(
  system: lvdm.LVDM, weights: stage_lib.Frozen, roots: jax.Array, told: jax.Array,
  known: jax.Array, settings: LongSettings,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """A unit of keyframes and what lies between; as `autoregressive`."""
  count = known.shape[1]
  streams = lambda name: rng.Streams(
    rng.stream(roots, name, 0), jnp.zeros((), jnp.int32)
  )
  keyframes = _go_on(
    system, "prediction", weights, streams("keyframes"), told, known, settings
  )
  gaps = keyframes.shape[1] - count
  latents = _fill_gaps(
    system, weights, streams("gaps"), keyframes[:, : gaps + 1], settings
  )
  return latents, keyframes[:, -count:]


UNITS = {"autoregressive": autoregressive, "hierarchical": hierarchical}


def unit_latents(system: lvdm.LVDM, how: str) -> int:
  """Returns how many latents a unit yields."""
  config = system.config
  if how == "sliding":
    return system.latent_shape[0]
  if how == "autoregressive":
    clip = config[system.dense_stage()]
    return clip.latents - clip.known
  clip = config.prediction
  return (clip.latents - clip.known) * (config.interpolation.latents - 1)


def known_latents(system: lvdm.LVDM, how: str) -> int:
  """Returns how many latents a unit goes on from."""
  if how == "sliding":
    return 0
  stage = "prediction" if how == "hierarchical" else system.dense_stage()
  return system.config[stage].known


def sliding(
  system: lvdm.LVDM, weights: stage_lib.Frozen, roots: jax.Array, length: int,
  settings: sampling.SamplerSettings,
) -> jax.Array:  # fmt: skip
  """Whole videos [V,length,h,w,c] by the model of short clips.

  At every step the network sees windows of the trained length, each half over the one
  before; where windows overlap their answers are averaged, with weights that fall off
  to a window's ends (Bar-Tal et al., MultiDiffusion, arXiv 2302.08113, equation 5, in
  time). Distant windows know nothing of each other.
  """
  window = system.latent_shape[0]
  starts = np.arange(0, length - window + 1, max(1, window // 2))
  if starts[-1] != length - window:
    starts = np.append(starts, length - window)
  places = starts[:, None] + np.arange(window)  # [N,window]
  ramp = np.minimum(np.arange(window) + 1, np.arange(window)[::-1] + 1)
  weight = ramp.astype(np.float32)[:, None, None, None]
  total = np.zeros((length, 1, 1, 1), np.float32)
  np.add.at(total, places, weight[None])
  denoise = system.denoiser("diffusion", weights["diffusion"]["params"]["denoiser"])

  def windowed(z: jax.Array, t: jax.Array, conditions: types.Conditions) -> jax.Array:
    # One after the other: memory must not grow with the video.
    def one(places: jax.Array) -> jax.Array:
      return denoise(z[:, places], t, conditions) * weight

    raw = jnp.moveaxis(jax.lax.map(one, places), 0, 1)  # [V,N,window,h,w,c]
    return jnp.zeros_like(z).at[:, places].add(raw) / total

  streams = rng.Streams(roots, jnp.zeros((), jnp.int32))
  shape = (length, *system.latent_shape[1:])
  return sampling.chain(
    windowed, system.process, settings, streams, jnp.zeros(len(roots), jnp.int32),
    shape, types.Conditions(), None,
  )  # fmt: skip


def decode_unit(
  system: lvdm.LVDM, weights: stage_lib.Frozen, context: jax.Array, latents: jax.Array,
  tail: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """Decodes a unit of each video so that no seam shows.

  The last `o` latents of the unit before are decoded again, in front; over their
  frames the two decodings are blended. The unit's own last frames are held back, to
  be blended with the next one's.

  Args:
    system: the networks.
    weights: by stage.
    context: [V,o,h,w,c], the last latents of the unit before.
    latents: [V,u,h,w,c], the unit's, u >= o.
    tail: [V,o f,H,W,3] float, the frames of `context` as the unit before decoded them.

  Returns:
    (frames [V,u f,H,W,3] uint8, of the context and all but the last o latents;
    tail [V,o f,H,W,3] float, of the last o)
  """
  video = system.decode_float(weights, jnp.concatenate([context, latents], axis=1))
  held, end = tail.shape[1], video.shape[1] - tail.shape[1]
  new = ((np.arange(held) + 0.5) / max(held, 1)).astype(np.float32)[:, None, None, None]
  blended = (1 - new) * tail + new * video[:, :held]
  done = jnp.concatenate([blended, video[:, held:end]], axis=1)
  return pixels.to_uint8(done), video[:, end:]
