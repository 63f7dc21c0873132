# SPDX-License-Identifier: Apache-2.0
"""Videos of any length from a trained model, unit by unit, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import local_devices
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


class LongVideos:
  """Long videos of one plan, side by side on the devices of this host.

  They are made in units, each a function of the unit before and its number. A carry
  holds what a unit leaves to the next, a row a video: `known`, the latents to go on
  from; `latents`, the unit's own; `tail`, frames that are held back for blending; and,
  of sliding videos, `rest`, the latents not yet decoded. Units made from the same carry
  are bit-identical.
  """

  def __init__(
    self,
    programs: Programs,
    devices: local_devices.LocalDevices,
    *,
    frames: int,
    of: Sequence[tuple[int, int]],
    overlap: int,
    around: Callable[[int], contextlib.AbstractContextManager[None]],
  ):
    """Plans the videos; nothing is computed.

    Args:
      programs: compiled on first use.
      devices: have the weights, by stage.
      frames: of each video, exactly.
      of: the seed and the number of each video; each pair is another video.
      overlap: latents that decoding blends at a seam.
      around: called with a unit's number; what it returns stands around its chains.
    """
    self._around = around
    self._programs, self._devices = programs, devices
    self._system = system = programs.system
    self._how = programs.settings.how
    self._roots = jnp.stack(
      [rng.stream(rng.root(seed), "video", number) for seed, number in of]
    )
    self._overlap, self._factor = overlap, system.downsample[0]
    self._unit = lvdm_long.unit_latents(system, self._how)
    self.frames = frames
    self.units = -(-frames // (self._unit * self._factor))

  def unit(self, k: int, carry: Carry) -> tuple[np.ndarray, Carry]:
    """Returns the frames [V,n,H,W,3] uint8 that unit k finishes, and its carry."""
    with self._around(k):
      latents, left = self._latents(k, carry)
    overlap = self._overlap
    if k:
      before, tail = carry["latents"], carry["tail"]
      context = before[:, before.shape[1] - overlap :]
    else:
      # There is no unit before: the first latent stands still, and is cut off.
      context = np.repeat(latents[:, :1], overlap, axis=1)
      size = self._system.config.data.size
      shape = (len(latents), overlap * self._factor, size, size, 3)
      tail = np.zeros(shape, np.float32)
    frames, tail = self._run(self._programs.decode, (context, latents, tail))
    if not k:
      frames = frames[:, overlap * self._factor :]
    if k == self.units - 1:
      last = np.clip((tail + 1) * 127.5, 0, 255).astype(np.uint8)
      frames = np.concatenate([frames, last], axis=1)
    begin = max(0, k * self._unit - overlap) * self._factor
    return frames[:, : self.frames - begin], {**left, "latents": latents, "tail": tail}

  def _latents(self, k: int, carry: Carry) -> tuple[np.ndarray, Carry]:
    """The latents [V,u,h,w,c] of unit k, and what the next one needs to make its own."""
    run, videos = self._programs.generate, len(self._roots)
    if self._how == "sliding":
      rest = carry.get("rest")
      if rest is None:
        whole = functools.partial(run, length=self.units * self._unit)
        rest = self._run(whole, (self._roots,))
      return rest[:, : self._unit], {"rest": rest[:, self._unit :]}
    count = lvdm_long.known_latents(self._system, self._how)
    shape = (videos, count, *self._system.latent_shape[1:])
    known = carry.get("known", np.zeros(shape, np.float32))
    told = np.full(videos, k > 0, np.float32)
    roots = rng.stream(self._roots, "unit", k)
    latents, known = self._run(run, (roots, told, known))
    return latents, {"known": known}

  def _run(self, program: Callable[..., Any], rows: tuple[Any, ...]) -> Any:
    with self._devices.placed(rows) as (weights, rows):
      return jax.device_get(program(weights, *rows))


class LongVideo:
  """One long video; see LongVideos. Frames are [n,H,W,3], and carries have no rows."""

  def __init__(self, videos: LongVideos):
    """Args: the plan of one video."""
    self._videos = videos
    self.frames, self.units = videos.frames, videos.units

  def unit(self, k: int, carry: Carry) -> tuple[np.ndarray, Carry]:
    """Returns the frames [n,H,W,3] uint8 that unit k finishes, and its carry."""
    carry = {name: x[None] for name, x in carry.items()}
    frames, left = self._videos.unit(k, carry)
    return frames[0], {name: x[0] for name, x in left.items()}


def stream(video: LongVideo | LongVideos) -> Iterator[np.ndarray]:
  """Yields the frames of a long video as they are finished, [n,H,W,3] uint8.

  Those of several videos at once are [V,n,H,W,3].
  """
  carry: Carry = {}
  for k in range(video.units):
    frames, carry = video.unit(k, carry)
    yield frames


def whole(
  plan: Callable[[Sequence[tuple[int, int]], int], LongVideos],
  of: Sequence[tuple[int, int]],
  at_once: int,
) -> Iterator[np.ndarray]:
  """Yields the frames [F,H,W,3] uint8 of whole videos.

  Args:
    plan: plans the videos of these seeds and numbers; the second argument is the place
      of the first one in `of`.
    of: the seed and the number of each video.
    at_once: how many are made side by side.
  """
  for start in range(0, len(of), at_once):
    # The last ones are filled up: one compiled program serves all.
    turn = [of[min(i, len(of) - 1)] for i in range(start, start + at_once)]
    made = np.concatenate(list(stream(plan(turn, start))), axis=1)
    yield from made[: len(of) - start]
