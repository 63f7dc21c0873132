# SPDX-License-Identifier: Apache-2.0
"""Trained models in Python: what notebooks and other programs use.

  model = lamd_jax.load("runs/lvdm_sky-demo")
  clip = model.generate(frames=16, seed=0)
  clip.save("sky.mp4")
"""

from __future__ import annotations

import base64
from collections.abc import Callable
import functools
import os
from typing import Any, NamedTuple

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import config as config_lib
from lamd_jax import media
from lamd_jax import rng
from lamd_jax import run_folder
from lamd_jax import validation
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.systems import lvdm
from lamd_jax.training import checkpoints
from lamd_jax.training import compile_cache
from lamd_jax.training import precision

Progress = Callable[[int, int], None]  # clips done, clips in all


class Clip(NamedTuple):
  """A finished clip: frames [T,H,W,3] uint8, fps frames a second."""

  frames: np.ndarray
  fps: float

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the clip; the suffix says how: .mp4, .gif or .npz."""
    suffix = epath.Path(path).suffix
    if suffix == ".mp4":
      media.write_mp4(path, self.frames, self.fps)
    elif suffix == ".gif":
      media.write_gif(path, self.frames, self.fps)
    elif suffix == ".npz":
      media.write_npz(path, self.frames[None])
    else:
      raise ValueError(f"{path}: unknown suffix; use .mp4, .gif or .npz")

  def _repr_html_(self) -> str:
    data = base64.b64encode(media.encode_gif(self.frames, self.fps)).decode()
    return f'<img src="data:image/gif;base64,{data}" width="256">'


class Model:
  """A system with trained weights. Compiled programs are kept between calls."""

  def __init__(self, config: ConfigDict, weights: dict[str, Any]):
    """Args:
    config: the run's config.
    weights: {stage: {"params": ..., "extras": ...}}, as checkpoints hold them.
    """
    self.config = config
    self.weights = weights
    self.fps = pipeline.fps(config.data)
    dtype = precision.compute_dtype(config.train.compute)
    self.system = SYSTEMS[config.system](config, dtype)

  @functools.cached_property
  def _sample(self) -> Callable[..., jax.Array]:
    return jax.jit(self.system.sample_latents, static_argnums=(3, 4))

  @functools.cached_property
  def _decode(self) -> Callable[..., jax.Array]:
    return jax.jit(self.system.decode)

  @functools.cached_property
  def _reconstruct(self) -> Callable[..., jax.Array]:
    return jax.jit(self.system.reconstruct)

  def generate(
    self,
    n: int | None = None,
    *,
    progress: Progress = lambda done, total: None,
    **knobs: Any,
  ) -> Clip | list[Clip]:
    """Generates clips.

    Args:
      n: how many clips; None gives one `Clip` and not a list.
      progress: called with (clips done, clips in all).
      **knobs: the names and defaults of `--sample.*` (config.sample_defaults):
        frames, seed, sampler, steps, spacing, eta, guidance, batch, decode_chunk, fps.

    Returns:
      A `Clip`, or a list of n. Clip i is a function of the weights, the knobs and i.

    Raises:
      ConfigError: a knob that is unknown or out of range, in one line.
    """
    settings = config_lib.sample_defaults()
    unknown = [key for key in knobs if key not in settings]
    if unknown:
      raise ConfigError(f"{unknown[0]}: no such knob; knobs are {', '.join(settings)}")
    settings.update({**knobs, "n": 1 if n is None else n})
    validation.check_sample(settings, self.config)
    fps = settings.fps or self.fps
    clips = [Clip(frames, fps) for frames in self._run(settings, progress)]
    return clips[0] if n is None else clips

  def _run(self, settings: ConfigDict, progress: Progress) -> list[np.ndarray]:
    sampler = lvdm.SamplerSettings(
      settings.sampler, settings.steps, settings.eta, settings.spacing
    )
    streams = rng.Streams(rng.root(settings.seed), jnp.zeros((), jnp.int32))
    batch = min(settings.batch, settings.n)
    clips: list[np.ndarray] = []
    for start in range(0, settings.n, batch):
      # The last batch is filled up, so that one compiled program serves all.
      index = jnp.arange(start, start + batch, dtype=jnp.int32)
      latents = self._sample(self.weights, streams, index, sampler, settings.frames)
      clips.extend(self.decode(latents, settings.decode_chunk))
      progress(min(start + batch, settings.n), settings.n)
    return clips[: settings.n]

  def decode(self, latents: jax.Array, chunk: int) -> np.ndarray:
    """Decodes latents [N,t,h,w,c], `chunk` clips at once; returns uint8 on the host."""
    return _in_chunks(lambda z: self._decode(self.weights, z), latents, chunk)

  def reconstruct(self, clips: np.ndarray, chunk: int = 4) -> np.ndarray:
    """Encodes and decodes clips [N,T,H,W,3] uint8, without noise."""
    return _in_chunks(lambda x: self._reconstruct(self.weights, x), clips, chunk)

  def random_latents(self, n: int, seed: int, chunk: int = 4) -> np.ndarray:
    """Decodes standard normal latents: the baseline of generation."""
    streams = rng.Streams(rng.root(seed), jnp.zeros((), jnp.int32))
    return self.decode(self.system.random_latents(streams, jnp.arange(n)), chunk)


def _in_chunks(run: Callable[[Any], jax.Array], rows: Any, chunk: int) -> np.ndarray:
  """Applies `run` to `chunk` rows at a time; the last chunk repeats its last row."""
  done = []
  for start in range(0, len(rows), chunk):
    part = rows[start : start + chunk]
    short = chunk - len(part)
    if short and start:
      part = jnp.concatenate([part, jnp.repeat(part[-1:], short, axis=0)])
    done.append(np.asarray(run(part))[: len(rows) - start])
  return np.concatenate(done)


def from_workdir(config: ConfigDict, workdir: epath.Path, weights: str) -> Model:
  """Loads every stage the system needs to generate from a run's folder.

  Raises:
    WeightsError: a stage was not trained to its end.
  """
  loaded = {}
  for stage in SYSTEMS[config.system].generates_with:
    folder = workdir / stage
    if not checkpoints.finished(folder):
      raise WeightsError(
        f"{folder}: the stage {stage} is not trained to its end; run --mode=train"
        f" --workdir={workdir} first"
      )
    loaded[stage] = checkpoints.load_weights(
      folder, weights, config.train.checkpoint_verify
    )
  return Model(config, jax.device_put(loaded))


def load(path: str | os.PathLike[str], *, weights: str = "ema") -> Model:
  """Loads a trained model from a run's folder.

  Args:
    path: the folder given as --workdir.
    weights: "ema", the moving averages where a stage keeps them, or "raw".

  Raises:
    ConfigError: no run in that folder. WeightsError: a stage is missing or damaged.
  """
  workdir = epath.Path(path).expanduser().resolve()
  config = run_folder.read(workdir)
  if config is None:
    raise ConfigError(f"{path}: holds no run (no config.json)")
  if weights not in ("ema", "raw"):
    raise ConfigError(f"weights={weights}: choose ema or raw")
  compile_cache.enable()
  return from_workdir(config, workdir, weights)
