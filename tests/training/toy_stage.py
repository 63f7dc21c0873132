# SPDX-License-Identifier: Apache-2.0
"""A stage small enough to compile in a second that uses all the trainer offers."""

from __future__ import annotations

import signal
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import config as config_lib
from lamd_jax import types
from lamd_jax.training import stage as stage_lib

CLIP = (2, 4, 4, 3)  # T,H,W,C
WIDTH = 32
POISON = 99  # a label that makes the loss not a number


class ToyStage:
  """Two groups, running batch statistics, noise by example, an average, a variant.

  statistics=False leaves out what depends on the split into micro-batches.
  """

  name = "toy"
  groups = ("generator", "discriminator")
  averaged = ("generator",)
  needs = encoded_by = ("earlier",)
  variants = ("plain", "doubled")
  starts_from = ""

  def __init__(self, statistics: bool = True):
    self.statistics = statistics
    self.traces: list[str] = []

  def variant_at(self, step: int) -> str:
    return self.variants[step % 2]

  def trained(self, variant: str):
    return self.groups

  def init(self, seed: int):
    random = np.random.default_rng(seed)
    size = int(np.prod(CLIP))
    draw = lambda *shape: random.normal(0, 0.1, shape).astype(np.float32)
    params = {
      "generator": {
        "first": {"kernel": draw(size, WIDTH), "bias": draw(WIDTH)},
        "second": {"kernel": draw(WIDTH, size), "bias": draw(size)},
      },
      "discriminator": {"kernel": draw(size, 8), "bias": draw(8), "odd": draw(3, 5)},
    }
    return params, {"mean": np.zeros(WIDTH, np.float32), "empty": {}}

  def forward(self, params, extras, frozen, batch, streams, variant):
    self.traces.append(variant)
    x = batch.video.astype(jnp.float32) / 127.5 - 1
    x = x.reshape(len(x), -1) + frozen["earlier"]["params"]["shift"]
    noise = streams.normal("noise", batch.index, (WIDTH,))
    g, d = params["generator"], params["discriminator"]
    h = jax.nn.relu(x @ g["first"]["kernel"] + g["first"]["bias"])
    mean = jnp.mean(h, axis=0)
    if self.statistics:
      h = h - mean
    h = h * (1 + 0.1 * noise)
    if variant == "doubled":
      h = 2 * h
    y = h @ g["second"]["kernel"] + g["second"]["bias"]
    cut = jax.lax.stop_gradient
    critic = lambda d, y: jnp.mean((y @ d["kernel"] + d["bias"]) ** 2)
    generator = jnp.mean((y - x) ** 2) + 0.1 * critic(jax.tree.map(cut, d), y)
    discriminator = critic(d, cut(y)) - 0.5 * critic(d, x) + jnp.mean(d["odd"] ** 2)
    generator = jnp.where(jnp.any(batch.label == POISON), jnp.nan, generator)
    extras = {**extras, "mean": 0.9 * extras["mean"] + 0.1 * mean}
    losses = {"generator": generator, "discriminator": discriminator}
    return stage_lib.StageOutput(losses, extras, {"mean_hidden": jnp.mean(h)})

  def preview(self, params, extras, frozen, batch, streams):
    x = batch.video.astype(jnp.float32) / 127.5 - 1
    g = params["generator"]
    flat = x.reshape(len(x), -1)
    h = jax.nn.relu(flat @ g["first"]["kernel"] + g["first"]["bias"])
    y = (h @ g["second"]["kernel"] + g["second"]["bias"]).reshape(x.shape)
    output = jnp.clip((y + 1) * 127.5, 0, 255).astype(jnp.uint8)
    return {"input": batch.video, "output": output}

  def finish(self, params, extras, frozen, batches):
    means = [float(next(batches).video.mean()) for _ in range(2)]
    return {**extras, "measured": np.float32(np.mean(means))}

  def encode(self, frozen, batch):
    x = batch.video.astype(jnp.float32) * frozen["earlier"]["params"]["shift"]
    return types.LatentBatch(x, jnp.zeros_like(x) - 1, batch.index, batch.label)


def clip(index: int) -> np.ndarray:
  return np.random.default_rng(index).integers(0, 256, CLIP, np.uint8)


class ToyLoader:
  """Clips by index, in order; `hook(step)` runs before each batch."""

  def __init__(self, batch: int, hook: Any = None, poison: tuple[int, ...] = ()):
    self._batch = batch
    self._next = 0
    self._hook = hook
    self._poison = poison  # steps, from 0

  def __iter__(self):
    return self

  def __next__(self) -> types.VideoBatch:
    step = self._next // self._batch
    if self._hook:
      self._hook(step)
    index = np.arange(self._next, self._next + self._batch, dtype=np.int32)
    self._next += self._batch
    video = np.stack([clip(int(i)) for i in index])
    label = np.full_like(index, POISON) if step in self._poison else index % 3
    return types.VideoBatch(video, index, label)

  def get_state(self):
    return {"next": self._next}

  def set_state(self, state):
    self._next = state["next"]

  def close(self):
    pass


def config(**optim: Any):
  """A whole config with a toy stage of 6 steps of 16 clips in 2 micro-batches.

  The number of steps does not enter the compiled program: tests share it by cache.
  """
  tree = config_lib.defaults()
  tree.optim.toy = tree.optim.diffusion.copy_and_resolve_references()
  settings = dict(
    steps=6, batch=16, accumulate=2, learning_rate=1e-2, ema_decay=0.9, clip_norm=1.0,
    weight_decay=0.01, schedule="constant", warmup=2,
  )  # fmt: skip
  tree.optim.toy.update({**settings, **optim})
  train = dict(log_every=2, checkpoint_every=2, preview_every=0, max_nonfinite=3)
  tree.train.update(train)
  return tree


FROZEN = {"earlier": {"params": {"shift": np.float32(0.25)}, "extras": {}}}


def run_until_terminated(workdir: str) -> None:
  """A run whose process sends itself SIGTERM, for a test of the exit code."""
  import os

  from lamd_jax.training import loop
  from lamd_jax.training import preemption
  from lamd_jax.training import sharding
  from lamd_jax.training import writers

  def hook(step: int) -> None:
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)

  tree = config()
  tree.train.checkpoint_every = 100
  result = loop.train(
    ToyStage(),
    config=tree,
    workdir=workdir,
    frozen=FROZEN,
    loader=ToyLoader(16, hook),
    preview_batch=None,
    finish_batches=lambda: iter(ToyLoader(16)),
    mesh=sharding.make_mesh("dp", jax.devices()[:1]),
    resume="auto",
    stop=preemption.Stop().install(),
    writer=writers.Writer(),
  )
  sys.exit(preemption.EXIT_CODE if result.status == "preempted" else 0)


class HostLoader(ToyLoader):
  """One of two processes' rows of each batch, dealt out as Grain deals them."""

  def __next__(self) -> types.VideoBatch:
    rows = slice(jax.process_index(), None, jax.process_count())
    batch = super().__next__()
    return jax.tree.map(lambda x: x[rows], batch)


def run_as_one_of_two(workdir: str) -> None:
  """Trains with another process; only the last one is asked to stop, at step 2."""
  jax.config.update("jax_num_cpu_devices", 2)
  from lamd_jax.training import distributed
  from lamd_jax.training import loop
  from lamd_jax.training import preemption
  from lamd_jax.training import sharding
  from lamd_jax.training import writers

  assert distributed.initialize(60)
  stop = preemption.Stop()

  def hook(step: int) -> None:
    if step == 2 and jax.process_index() == 1:
      stop.request()

  tree = config(accumulate=1, steps=10)
  tree.train.preview_every = 4
  result = loop.train(
    ToyStage(),
    config=tree,
    workdir=workdir,
    frozen=FROZEN,
    loader=HostLoader(16, hook),
    preview_batch=next(ToyLoader(2)),
    finish_batches=lambda: iter(ToyLoader(16)),
    mesh=sharding.make_mesh("fsdp"),
    resume="auto",
    stop=stop,
    writer=writers.for_stage(tree.train, "toy", workdir, steps=10, fps=4.0),
    min_shard_bytes=1,
  )
  print(f"result {result.status} {result.step}")


if __name__ == "__main__":
  {"terminated": run_until_terminated, "two": run_as_one_of_two}[sys.argv[1]](
    sys.argv[2]
  )
