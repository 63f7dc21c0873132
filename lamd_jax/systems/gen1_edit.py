# SPDX-License-Identifier: Apache-2.0
"""Edits windows of videos with Gen-1's networks: one chain, held to what is to stay.

The paper says that it edits parts of a frame "by masking the denoising process" and
nothing of long videos. Ours: blended latent diffusion (Avrahami et al., arXiv
2206.02779, section 3) for both. What stays, be it a place in the frame or a frame that
the window before has made, is overwritten at every step with its latents noised to the
state's level. Noise belongs to a frame's number in its video, so that windows agree
where they overlap.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import inversion
from lamd_jax.diffusion import samplers
from lamd_jax.diffusion.samplers import grid as grid_lib
from lamd_jax.systems import gen1
from lamd_jax.systems import pixels
from lamd_jax.systems import sampling
from lamd_jax.training import stage as stage_lib


@dataclasses.dataclass(frozen=True)
class EditSettings:
  """The knobs of an edit; static."""

  sampler: sampling.SamplerSettings
  start: str  # noise | input (noised: SDEdit) | inverted (by DDIM)
  strength: float  # in (0, 1]: where the chain starts, as a share of the schedule


class Window(NamedTuple):
  """A batch of windows; None where an edit does not look."""

  index: jax.Array  # [B] int32, of the video or clip: its noise is its own
  number: jax.Array  # [B,T] int32, of each frame in its video
  known: jax.Array  # [B,T,h,w,c], latents of frames that were made before
  held: jax.Array  # [B,T] float, 1 at these frames
  video: jax.Array | None = None  # [B,T,H,W,3] uint8, the input
  mask: jax.Array | None = None  # [B,T,H,W,1] uint8, 1 where it is edited
  depth: jax.Array | None = None  # [B,T,H,W,1] uint8
  level: jax.Array | None = None  # [B] int32, of the structure


def latent_mask(mask: jax.Array, height: int, width: int) -> jax.Array:
  """Mask [B,T,H,W,1] -> [B,T,height,width,1] float: 1 where any of its pixels is."""
  batch, frames, rows, columns, _ = mask.shape
  cells = (batch, frames, height, rows // height, width, columns // width, 1)
  return mask.reshape(cells).max((3, 5)).astype(jnp.float32)


def frame_noise(
  streams: rng.Streams, name: str, window: Window, shape: tuple[int, ...]
) -> jax.Array:
  """Standard normal [B,T,*shape], keyed by the video and the frame's number in it."""
  keys = rng.example_keys(streams.key(name), window.index)
  draw = lambda key: jax.random.normal(key, shape, jnp.float32)
  of_video = lambda key, numbers: jax.vmap(draw)(rng.example_keys(key, numbers))
  return jax.vmap(of_video)(keys, window.number)


def grid(system: gen1.Gen1, settings: EditSettings) -> np.ndarray:
  """Where an edit's chain stops, [S+1]: it is shorter where it starts from the input."""
  process, chosen = system.process, settings.sampler
  found = grid_lib.make(process, chosen.steps, chosen.spacing)
  if settings.start == "noise":
    return found
  return grid_lib.cut(found, settings.strength * (process.schedule.steps - 1))


def edit(
  system: gen1.Gen1,
  weights: stage_lib.Frozen,
  root: jax.Array,
  embedding: jax.Array,
  window: Window,
  settings: EditSettings,
) -> jax.Array:
  """Runs one chain per window; returns latents [B,T,h,w,c].

  Frames that are held end one step further denoised than what they were held to, and
  are to be blended with it. Places that the mask keeps are the input's latents.

  Args:
    system: the networks.
    weights: of the finished stages.
    root: the key of all noise.
    embedding: [B,D], the content.
    window: see there.
    settings: static.
  """
  process, chosen = system.process, settings.sampler
  shape = window.known.shape[2:]
  prompt = types.Prompt(depth=window.depth, structure_level=window.level)
  told, null = system.conditions(system.diffuser, weights, embedding, prompt)
  places = grid(system, settings)
  streams = rng.Streams(root, jnp.zeros((), jnp.int32))
  noise = frame_noise(streams, "start", window, shape)
  given = window.known
  if window.video is not None:
    params = weights["autoencoder"]["params"]["generator"]
    mean, _ = system.encode(params, pixels.to_float(window.video))
    given = system.to_latent(weights, mean)
  held = window.held[..., None, None, None]
  inside = jnp.ones_like(held)
  if window.mask is not None:
    inside = latent_mask(window.mask, *shape[:2])
  value = held * window.known + (1 - held) * given
  z = samplers.SAMPLERS[chosen.sampler](
    sampling.watched(
      system.guided(system.diffuser, weights, null, chosen), chosen.watch
    ),
    process,
    _start(system, weights, settings.start, given, noise, null, places),
    told,
    grid=places,
    noise=lambda i: frame_noise(rng.Streams(root, i), "chain", window, shape),
    eta=chosen.eta,
    constraint=constraints.masked(
      inside * (1 - held), constraints.noised(process, value, noise)
    ),
  )
  return inside * z + (1 - inside) * value


def _start(
  system: gen1.Gen1,
  weights: stage_lib.Frozen,
  how: str,
  given: jax.Array,
  noise: jax.Array,
  null: types.Conditions,
  grid: np.ndarray,
) -> jax.Array:
  """Returns the state at grid[0]: noise, or of the latents `given`, without content."""
  name, process = system.diffuser, system.process
  mode = "image" if name == "image" else "video"
  plain = system.denoiser(weights[name]["params"], mode)
  level = jnp.full(given.shape[:1], grid[0], jnp.float32)
  starts = {
    "noise": lambda: noise,
    "input": lambda: process.add_noise(given, noise, level),
    "inverted": lambda: inversion.invert(plain, process, given, null, grid=grid),
  }
  return starts[how]()
