# SPDX-License-Identifier: Apache-2.0
"""Videos of any length from a trained model, unit by unit, in constant memory."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax.systems import lvdm
from lamd_jax.systems import lvdm_long

Carry = dict[str, np.ndarray]


class Programs:
  """The compiled programs of one way to make long videos; shared by all its videos."""

  def __init__(self, system: lvdm.LVDM, settings: lvdm_long.LongSettings):
    self.system = system
    self.settings = settings
    self.decode = jax.jit(functools.partial(lvdm_long.decode_unit, system))
    if settings.how == "sliding":
      self.generate = jax.jit(
        functools.partial(lvdm_long.sliding, system, settings=settings.sampler),
        static_argnames="length",
      )
    else:
      unit = lvdm_long.UNITS[settings.how]
      self.generate = jax.jit(functools.partial(unit, system, settings=settings))


class LongVideo:
  """One long video as units, each a function of the unit before and its number.

  A carry holds what a unit leaves to the next: `known`, the latents to go on from;
  `latents`, the unit's own; `tail`, frames that are held back for blending; and, of a
  sliding video, `rest`, the latents not yet decoded. Units made from the same carry
  are bit-identical.
  """

  def __init__(
    self,
    programs: Programs,
    weights: Any,
    *,
    frames: int,
    seed: int,
    number: int,
    overlap: int,
    around: Callable[[int], contextlib.AbstractContextManager[None]],
  ):
    """Plans the video; nothing is computed.

    Args:
      programs: compiled on first use.
      weights: by stage.
      frames: of the video, exactly.
      seed: of the run.
      number: of the video; each number is another one.
      overlap: latents that decoding blends at a seam.
      around: called with a unit's number; what it returns stands around its chains.
    """
    self._around = around
    self._programs, self._weights = programs, weights
    self._system = system = programs.system
    self._how = programs.settings.how
    self._root = rng.stream(rng.root(seed), "video", number)
    self._overlap, self._factor = overlap, system.downsample[0]
    self._unit = lvdm_long.unit_latents(system, self._how)
    self.frames = frames
    self.units = -(-frames // (self._unit * self._factor))

  def unit(self, k: int, carry: Carry) -> tuple[np.ndarray, Carry]:
    """Returns the frames [n,H,W,3] uint8 that unit k finishes, and its carry."""
    with self._around(k):
      latents, left = self._latents(k, carry)
    overlap = self._overlap
    if k:
      context, tail = carry["latents"][len(carry["latents"]) - overlap :], carry["tail"]
    else:
      # There is no unit before: the first latent stands still, and is cut off.
      context = np.repeat(latents[:1], overlap, axis=0)
      size = self._system.config.data.size
      tail = np.zeros((overlap * self._factor, size, size, 3), np.float32)
    frames, tail = jax.device_get(
      self._programs.decode(self._weights, context, latents, tail)
    )
    if not k:
      frames = frames[overlap * self._factor :]
    if k == self.units - 1:
      last = np.clip((tail + 1) * 127.5, 0, 255).astype(np.uint8)
      frames = np.concatenate([frames, last])
    begin = max(0, k * self._unit - overlap) * self._factor
    return frames[: self.frames - begin], {**left, "latents": latents, "tail": tail}

  def _latents(self, k: int, carry: Carry) -> tuple[np.ndarray, Carry]:
    """The latents [u,h,w,c] of unit k, and what the next one needs to make its own."""
    run, weights = self._programs.generate, self._weights
    if self._how == "sliding":
      rest = carry.get("rest")
      if rest is None:
        rest = np.asarray(run(weights, self._root, length=self.units * self._unit))
      return rest[: self._unit], {"rest": rest[self._unit :]}
    count = lvdm_long.known_latents(self._system, self._how)
    shape = (count, *self._system.latent_shape[1:])
    known = carry.get("known", np.zeros(shape, np.float32))
    key = rng.stream(self._root, "unit", k)
    latents, known = jax.device_get(run(weights, key, jnp.float32(k > 0), known))
    return latents, {"known": known}
