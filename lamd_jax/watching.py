# SPDX-License-Identifier: Apache-2.0
"""What `generate` tells while it works, and the seeds of single clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import limits
from lamd_jax import rng
from lamd_jax.errors import ConfigError
from lamd_jax.systems import sampling

Progress = Callable[[int, int], None]  # clips done, clips in all
# Step 0, ..., steps-1; steps; states [B,t,h,w,c] float32 before the step.
Callback = Callable[[int, int, np.ndarray], None]

_WIDTH = 24  # of the bar, characters


class Listener:
  """What compiled chains call at each step: one a model, whoever listens.

  A chain is compiled for its listener, so functions of users, which change from call
  to call, are told by this one and never compiled in.
  """

  def __init__(self):
    self._tell: Callback | None = None

  def __call__(self, position: Any, states: Any) -> None:
    # Heun asks its network twice at a position; the second time is no step.
    position = float(position)
    if self._tell is None or self._error is not None or position in self._seen:
      return
    self._seen.append(position)
    step = len(self._seen) - 1
    if step < self._steps:
      try:
        self._tell(step, self._steps, np.asarray(states))
      except BaseException as error:  # raised again once the device is done
        self._error = error

  @contextlib.contextmanager
  def chain(self, tell: Callback, steps: int) -> Iterator[None]:
    """Passes the steps of the chain that is run inside on to `tell`."""
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

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._start = clock()
    self._done, self._total = 0, 1

  def steps(self, step: int, steps: int, batch: int) -> None:
    share = min(batch, self._total - self._done) * (step + 1) / steps
    self._print(self._done + share, f"step {step + 1}/{steps}")

  def clips(self, done: int, total: int) -> None:
    self._done, self._total = done, total
    self._print(done, f"{self._clock() - self._start:.1f} s")
    if done == total:
      print(flush=True)

  def begin(self, total: int) -> None:
    self._total = total

  def _print(self, done: float, note: str) -> None:
    filled = int(_WIDTH * done / self._total)
    bar = "#" * filled + "." * (_WIDTH - filled)
    text = f"[{bar}] {self._done}/{self._total} clips, {note}"
    print(f"\r{text:<{_WIDTH + 40}}", end="", flush=True, file=sys.stdout)


class Watch:
  """Progress and callback of one call of `generate`."""

  def __init__(
    self, listener: Listener, progress: Progress | bool, callback: Callback | None,
    settings: ConfigDict,
  ):  # fmt: skip
    if callback is not None and settings.long != "none":
      raise ConfigError(
        f"callback: not with long={settings.long}; iterate over Model.long_video, whose"
        " units come as they are done"
      )
    self._listener, self._callback = listener, callback
    self._bar = Bar() if progress is True else None
    self._progress = progress if callable(progress) else None
    self._settings = settings
    if self._bar:
      self._bar.begin(settings.n)

  @property
  def _watched(self) -> bool:
    return self._callback is not None or self._bar is not None

  def sampler(self, found: sampling.SamplerSettings) -> sampling.SamplerSettings:
    """The chain's settings; unwatched, the compiled program has no trace of this."""
    return dataclasses.replace(found, watch=self._listener) if self._watched else found

  @contextlib.contextmanager
  def chain(self) -> Iterator[None]:
    """Around the run of a chain."""
    if not self._watched:
      yield
      return

    def tell(step: int, steps: int, states: np.ndarray) -> None:
      if self._bar:
        self._bar.steps(step, steps, len(states))
      if self._callback is not None:
        self._callback(step, steps, states)

    with self._listener.chain(tell, self._settings.steps):
      yield

  def each(self, videos: Sequence[Any]) -> Iterator[Any]:
    """Yields videos, and tells when each is done with."""
    for i, video in enumerate(videos):
      yield video
      self.clips(i + 1)

  def clips(self, done: int) -> None:
    """`done` clips are finished."""
    if self._bar:
      self._bar.clips(done, self._settings.n)
    elif self._progress:
      self._progress(done, self._settings.n)


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


def own_seeds(
  knobs: Mapping[str, Any], seeds: Sequence[int], n: int
) -> list[tuple[int, dict[str, Any]]]:
  """Returns for each of n videos its number and its knobs, as `rows` does for clips."""
  if not seeds:
    return [(i, dict(knobs)) for i in range(n)]
  return [(0, {**knobs, "seed": seeds[i % len(seeds)]}) for i in range(n)]
