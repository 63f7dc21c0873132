# SPDX-License-Identifier: Apache-2.0
"""What a model tells while it works, and the seeds of single clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import limits
from lamd_jax import rng
from lamd_jax.errors import ConfigError
from lamd_jax.systems import sampling

Progress = Callable[[int, int], None]  # clips done, clips in all
# What stands around the chains of a unit; given the unit's number.
Around = Callable[[int], contextlib.AbstractContextManager[None]]

_WIDTH = 24  # of the bar, characters


class States(np.ndarray):
  """States [B,t,h,w,c] float32 of chains before a step, and whose they are.

  Attributes:
    unit: which batch of clips, unit of a long video or window of an edit, from 0.
    video: which of several long videos, from 0.
  """

  unit = 0
  video = 0

  def __array_finalize__(self, source: Any) -> None:
    if isinstance(source, States):
      self.unit, self.video = source.unit, source.video


# Step 0, ..., steps-1; steps; the states before the step.
Callback = Callable[[int, int, States], None]


def _tell(
  callback: Callback, step: int, steps: int, states: np.ndarray, unit: int, video: int
) -> None:
  told = states.view(States)
  told.unit, told.video = unit, video
  callback(step, steps, told)


class Listener:
  """What compiled chains call at each step: one a model, whoever listens.

  A chain is compiled for its listener, so functions of users, which change from call
  to call, are told by this one and never compiled in.
  """

  def __init__(self):
    self._tell: Callable[[int, int, np.ndarray], None] | None = None

  def __call__(self, position: Any, states: Any) -> None:
    position = float(position)
    if self._tell is None or self._error is not None:
      return
    if len(self._seen) >= self._steps and position == self._seen[0]:
      self._seen = []  # a program may run one chain after another
    # Heun asks its network twice at a position; the second time is no step.
    if position in self._seen:
      return
    self._seen.append(position)
    step = len(self._seen) - 1
    if step < self._steps:
      try:
        self._tell(step, self._steps, np.asarray(states))
      except BaseException as error:  # raised again once the device is done
        self._error = error

  @contextlib.contextmanager
  def chain(
    self, tell: Callable[[int, int, np.ndarray], None], steps: int
  ) -> Iterator[None]:
    """Passes the steps of the chains that are run inside on to `tell`."""
    self._tell, self._steps = tell, steps
    self._seen: list[float] = []
    self._error: BaseException | None = None
    try:
      yield
      jax.effects_barrier()  # what was told is told when the chain is over
    finally:
      self._tell = None
    if self._error is not None:
      raise self._error


class Bar:
  """A line that fills up: clips, and steps of those that are under way."""

  def __init__(self, total: int, clock: Callable[[], float] = time.monotonic):
    """Args: clips in all, and a clock in seconds."""
    self._clock = clock
    self._start = clock()
    self._done, self._total = 0, total

  def steps(self, step: int, steps: int, batch: int) -> None:
    share = min(batch, self._total - self._done) * (step + 1) / steps
    self._print(self._done + share, f"step {step + 1}/{steps}")

  def clips(self, done: int) -> None:
    self._done = done
    self._print(done, f"{self._clock() - self._start:.1f} s")
    if done == self._total:
      print(flush=True)

  def _print(self, done: float, note: str) -> None:
    filled = int(_WIDTH * done / self._total)
    bar = "#" * filled + "." * (_WIDTH - filled)
    text = f"[{bar}] {self._done}/{self._total} clips, {note}"
    print(f"\r{text:<{_WIDTH + 40}}", end="", flush=True, file=sys.stdout)


class Watch:
  """Progress and callback of one call of `generate`."""

  def __init__(
    self, listener: Listener, progress: Progress | bool, callback: Callback | None,
    n: int,
  ):  # fmt: skip
    """Args: of the model, as `generate` has them, and how many clips it makes."""
    self._listener, self._callback = listener, callback
    self._bar = Bar(n) if progress is True else None
    self._progress = progress if callable(progress) else None
    self._n, self._batches = n, 0

  @property
  def _watched(self) -> bool:
    return self._callback is not None or self._bar is not None

  def sampler(self, found: sampling.SamplerSettings) -> sampling.SamplerSettings:
    """The chain's settings; unwatched, the compiled program has no trace of this."""
    return dataclasses.replace(found, watch=self._listener) if self._watched else found

  @contextlib.contextmanager
  def chain(self, steps: int) -> Iterator[None]:
    """Around the run of a batch's chain of so many steps."""
    if not self._watched:
      yield
      return

    def tell(step: int, steps: int, states: np.ndarray) -> None:
      if self._bar:
        self._bar.steps(step, steps, len(states))
      if self._callback is not None:
        _tell(self._callback, step, steps, states, self._batches, 0)

    with self._listener.chain(tell, steps):
      yield
    self._batches += 1

  def each(self, clips: Iterable[Any]) -> Iterator[Any]:
    """Yields clips, and tells that each is finished."""
    for i, clip in enumerate(clips):
      self.clips(i + 1)
      yield clip

  def clips(self, done: int) -> None:
    """`done` clips are finished."""
    if self._bar:
      self._bar.clips(done)
    elif self._progress:
      self._progress(done, self._n)


def around_units(
  listener: Listener, callback: Callback | None, steps: int, video: int = 0
) -> Around:
  """Returns what lets `callback` hear the chains of each unit of a video."""
  if callback is None:
    return lambda unit: contextlib.nullcontext()

  def around(unit: int) -> contextlib.AbstractContextManager[None]:
    return listener.chain(
      lambda *heard: _tell(callback, *heard, unit, video), steps
    )

  return around


def watched(
  found: sampling.SamplerSettings, listener: Listener, callback: Callback | None
) -> sampling.SamplerSettings:
  """A chain's settings; unheard, the compiled program has no trace of listening."""
  return found if callback is None else dataclasses.replace(found, watch=listener)


def split_seeds(
  n: int | None, knobs: Mapping[str, Any]
) -> tuple[int | None, dict[str, Any], tuple[int, ...]]:
  """Takes seeds of single clips out of the knobs.

  Returns:
    how many clips, the knobs with one seed, and the seeds that clips take in turn;
    none of them where `seed` is one number or not said.

  Raises:
    ConfigError: a seed that is no whole number in range.
  """
  given = knobs.get("seed", 0)
  if isinstance(given, np.ndarray) and given.ndim == 0:
    given = given[()]
  if isinstance(given, int | np.integer):
    return n, {**knobs, **({"seed": int(given)} if "seed" in knobs else {})}, ()
  if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray | range):
    raise ConfigError(f"seed={given!r}: give a whole number, or a list of them")
  if not len(given):
    raise ConfigError("seed=[]: give a whole number, or a list of at least one")
  for seed in given:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
      raise ConfigError(f"seed={seed!r}: seeds are whole numbers")
    limits.check_leaf("sample", "seed", int(seed))
  seeds = tuple(int(seed) for seed in given)
  return (len(seeds) if n is None else n), {**knobs, "seed": seeds[0]}, seeds


def rows(
  streams: rng.Streams, seeds: Sequence[int], index: np.ndarray
) -> tuple[rng.Streams, np.ndarray]:
  """Returns the streams of clips `index` [B] and their numbers in them.

  A clip with a seed of its own is the first clip of that seed.
  """
  if not seeds:
    return streams, index
  roots = jnp.stack([rng.root(seeds[i % len(seeds)]) for i in index])
  return streams._replace(root=roots), np.zeros_like(index)


def own_seeds(seed: int, seeds: Sequence[int], n: int) -> list[tuple[int, int]]:
  """Returns the seed and the number of each of n videos, as `rows` does for clips."""
  if not seeds:
    return [(seed, i) for i in range(n)]
  return [(seeds[i % len(seeds)], 0) for i in range(n)]
