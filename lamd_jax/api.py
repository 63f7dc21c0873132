# SPDX-License-Identifier: Apache-2.0
"""Trained models in Python: what notebooks and other programs use.

  model = lamd_jax.load("runs/lvdm_sky-demo")
  clip = model.generate(frames=16, seed=0)
  clip.save("sky.mp4")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import adapters
from lamd_jax import editing
from lamd_jax import inputs
from lamd_jax import knobs as knobs_lib
from lamd_jax import loading
from lamd_jax import local_devices
from lamd_jax import long_video
from lamd_jax import rng
from lamd_jax import run_folder
from lamd_jax import types
from lamd_jax import watching
from lamd_jax.clip import Clip
from lamd_jax.data import captions
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.systems import gen1_edit
from lamd_jax.systems import lamd
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import compile_cache
from lamd_jax.training import precision

stream = long_video.stream  # beside `Model.long_video`, whose frames it yields


class Model:
  """A system with trained weights. Compiled programs are kept between calls."""

  def __init__(self, config: ConfigDict, weights: dict[str, Any]):
    """Args:
    config: the run's config; files it names are there.
    weights: {stage: {"params": ..., "extras": ...}}, as checkpoints hold them.
    """
    self.config = config
    self.weights = weights
    self.devices = local_devices.LocalDevices(
      lambda: self.weights, config.train.mesh
    )
    self.fps = pipeline.fps(config.data)
    dtype = precision.compute_dtype(config.train.compute)
    self.system = SYSTEMS[config.system](config, dtype)
    self._listener = watching.Listener()
    self._long = functools.lru_cache(maxsize=4)(
      functools.partial(long_video.Programs, self.system)
    )

  @functools.cached_property
  def _sample(self) -> Callable[..., jax.Array]:
    return jax.jit(self.system.sample_latents, static_argnums=(4, 5))

  @functools.cached_property
  def tokenize(self) -> captions.Tokenizer | None:
    return captions.tokenizer(self.config.data)

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
    text: str | Sequence[str] = "",
    image: Any = None,
    motion_from: Any = None,
    label: int | Sequence[int] = -1,
    progress: watching.Progress | bool = False,
    callback: watching.Callback | None = None,
    **knobs: Any,
  ) -> Clip | list[Clip]:
    """Generates clips.

    Args:
      n: how many clips; None: one to each entry of the longest list among text, image,
        label and seed, or one `Clip`, not a list, where there is none.
      text: a caption, or several that clips take in turn; "" for none.
      image: what is to move, in systems that animate (LaMD), or whose looks held-out
        clips get (Gen-1): a path, an array [H,W,3] uint8, or a list of them that clips
        take in turn; None takes first frames of held-out clips of the run's data.
      motion_from: a path, a `Clip` or an array [T,H,W,3] uint8 whose motion the image
        takes over; nothing is generated then.
      label: a class, or several that clips take in turn; -1 for none.
      progress: True for a bar of clips and steps, or called with (clips done, all).
      callback: called at each step of a chain with (step, steps, states of the batch
        [B,t,h,w,c] float32, see `watching.States`); an exception of it ends the call.
        A unit of a hierarchical video has two chains: of keyframes, then of gaps.
      **knobs: the names and defaults of `--sample.*` (config.sample_defaults):
        frames, seed, sampler, steps, spacing, eta, guidance, batch, decode_chunk, fps;
        replace_first_frame, and for videos of any length long, noise_level, null,
        overlap. A list of seeds: clips take them in turn, each the first of its seed.

    Returns:
      A `Clip`, or a list of them. Clip i is a function of the weights, the knobs and i.

    Raises:
      ConfigError: a knob unknown or out of range, or more texts, images or labels than
        clips. DataError: an unreadable image or video. WeightsError: an untrained
        stage. All in one line.
    """
    if knobs.get("strip"):
      raise ConfigError(f"strip={knobs['strip']}: is of denoising_strip; take it out")
    n = inputs.count(n, knobs.get("seed"), text=text, image=image, label=label)
    n, knobs, seeds = watching.split_seeds(n, knobs)
    settings, given = self._asked(n, text, image, motion_from, label, knobs)
    fps, watch = settings.fps or self.fps, watching.Watch(
      self._listener, progress, callback, settings.n
    )
    if settings.long == "none":
      made = self._run(settings, given, seeds, watch)
    else:
      own = {**knobs, "seed": seeds or settings.seed}
      videos = self.long_videos(settings.n, callback=callback, **own)
      made = list(watch.each(videos))
    clips = [Clip(frames, fps) for frames in made]
    return clips[0] if n is None else clips

  def plan_edit(
    self, video: Any, *, callback: watching.Callback | None = None, **asked: Any
  ) -> editing.Edit:
    """Reads all that an edit needs; its `edited` yields frame by frame.

    Args:
      video: a path, a `Clip` or an array [T,H,W,3] uint8, of any length and size.
      callback: as of `generate`; the states' `unit` is the window's number.
      **asked: see `editing.plan`: text or image, mask, depth, and the knobs.
    """
    self._only("gen1", "edits of videos are")
    return editing.plan(
      self, self._edits, video, listener=self._listener, callback=callback, **asked
    )

  def edit(self, video: Any, **asked: Any) -> Clip:
    """Edits a video as `plan_edit` says; returns all of its frames."""
    return editing.whole(self.plan_edit(video, **asked))

  @functools.cached_property
  def _edits(self) -> editing.Programs:
    return editing.Programs(self.system)

  def denoising_strip(
    self, *, text: str = "", image: Any = None, label: int = -1, **knobs: Any
  ) -> np.ndarray:
    """Decodes the states of one chain, from pure noise to the clip.

    Arguments are those of `generate`; the knob `strip` says how many states, evenly
    spaced among those of the chain. Returns clips [strip,T,H,W,3] uint8.
    """
    settings, given = self._asked(None, text, image, None, label, knobs)
    if not self.system.animates_images or not settings.strip:
      raise ConfigError(
        f"strip={settings.strip}: at least 2, and of a system that lets images move"
      )
    prompt = self.prompt(given, np.zeros(1, np.int32), 0)
    states = jax.jit(self.system.denoising_states, static_argnums=4)(
      self.weights, knobs_lib.streams(settings), jnp.zeros(1, jnp.int32), prompt,
      knobs_lib.sampler(settings),
    )[:, 0]  # fmt: skip
    states = states[np.linspace(0, len(states) - 1, settings.strip).round().astype(int)]
    repeated = jax.tree.map(lambda x: np.repeat(x, settings.strip, axis=0), prompt)
    return self.decode(states, settings.decode_chunk, repeated)

  def long_video(
    self, number: int = 0, *, callback: watching.Callback | None = None, **knobs: Any
  ) -> long_video.LongVideo:
    """Plans a video of any length, `number` of those that the knobs describe.

    Iterate over `api.stream(video)`, or over its units. Knobs, `callback` and errors are
    those of `generate`; `long` says how and `frames` how many.
    """
    settings = knobs_lib.settings(self.config, self.weights, {**knobs, "n": 1})
    of = [(settings.seed, number)]
    return long_video.LongVideo(self._long_videos(settings, callback, of, 0))

  def long_videos(
    self, n: int, *, callback: watching.Callback | None = None, **knobs: Any
  ) -> Iterator[np.ndarray]:
    """Yields the frames [F,H,W,3] uint8 of long videos 0 to n-1, see `long_video`.

    The devices of this host make one each, side by side; with a callback, one device
    makes one after the other.
    """
    _, knobs, seeds = watching.split_seeds(n, knobs)
    settings = knobs_lib.settings(self.config, self.weights, {**knobs, "n": n})
    plan = functools.partial(self._long_videos, settings, callback)
    at_once = self.devices.at_once(n, 1) if callback is None else 1
    of = watching.own_seeds(settings.seed, seeds, n)
    return long_video.whole(plan, of, at_once)

  def _long_videos(
    self, settings: ConfigDict, callback: watching.Callback | None,
    of: Sequence[tuple[int, int]], place: int,
  ) -> long_video.LongVideos:  # fmt: skip
    asked = knobs_lib.long(settings)
    sampler = watching.watched(asked.sampler, self._listener, callback)
    programs = self._long(dataclasses.replace(asked, sampler=sampler))
    around = watching.around_units(self._listener, callback, settings.steps, place)
    return long_video.LongVideos(
      programs, self.devices, frames=settings.frames or self.config.data.frames,
      of=of, overlap=settings.overlap, around=around,
    )  # fmt: skip

  def _asked(
    self, n: int | None, text: Any, image: Any, motion_from: Any, label: Any,
    knobs: Mapping[str, Any],
  ) -> tuple[ConfigDict, inputs.Given]:  # fmt: skip
    """Checks what `generate` was asked; reads the files that it names."""
    texts = knobs_lib.several("text", text, str, "a caption")
    labels = knobs_lib.several("label", label, int | np.integer, "a class")
    images = inputs.images(image)
    settings = knobs_lib.settings(self.config, self.weights, {
      **knobs, "n": 1 if n is None else n, "label": int(max(labels)),
      "text": next(filter(None, texts), ""),
      "image": knobs_lib.name(images[0]) if images else "",
      "motion_from": knobs_lib.name(motion_from),
    })  # fmt: skip
    inputs.say(captions.notes(self.tokenize, texts))
    if self.config.system == "gen1":
      return settings, editing.held_out(self, settings, texts, labels, images)
    if not self.system.animates_images:
      return settings, inputs.Given(texts, labels, None, None)
    clip = motion_from.frames if isinstance(motion_from, Clip) else motion_from
    data, seed = self.config.data, self.config.seed
    images, motion, notes = inputs.gather(data, seed, settings.n, images, clip)
    inputs.say(notes)
    return settings, inputs.Given(texts, labels, images, motion)

  def depth_of_clips(self, split: str, count: int, seed: int) -> np.ndarray:
    """Returns the depth [N,T,H,W,1] uint8 of the first `count` clips of a split."""
    data = self.config.data
    if not self.system.estimates_depth:
      return pipeline.depths(data, split, count, seed)
    estimate = jax.jit(self.system.depth)
    clips = pipeline.clips(data, split, count, seed)
    return self.devices.in_chunks(estimate, clips, 1)

  def prompt(
    self, given: inputs.Given, index: np.ndarray, structure_level: int
  ) -> types.Prompt:
    """The rows of a batch; what there are fewer of than clips is taken in turn."""
    turn = lambda values: [values[i % len(values)] for i in index]
    tokens = label = image = depth = level = None
    if self.tokenize is not None:
      tokens = np.stack([self.tokenize(text) for text in turn(given.texts)])
    if given.images is not None:
      image = np.stack(turn(given.images))
    classes = self.config.model.motion.num_classes
    if self.system.animates_images and classes:
      label = np.array(turn(given.labels), np.int32)
      label = np.where(label < 0, classes, label)  # the null class
    if given.depth is not None:
      depth = np.stack(turn(given.depth))
      level = np.full(index.shape, structure_level, np.int32)
    return types.Prompt(tokens, label, image, depth, level)

  def _run(
    self, settings: ConfigDict, given: inputs.Given, seeds: Sequence[int],
    watch: watching.Watch,
  ) -> list[np.ndarray]:  # fmt: skip
    sampler = watch.sampler(knobs_lib.sampler(settings))
    chain = dataclasses.replace(knobs_lib.edit(settings), sampler=sampler)
    root = knobs_lib.streams(settings)
    batch = self.devices.at_once(settings.n, settings.batch)
    clips: list[np.ndarray] = []
    for start in range(0, settings.n, batch):
      # The last batch is filled up, so that one compiled program serves all.
      index = np.arange(start, start + batch, dtype=np.int32)
      prompt = self.prompt(given, index, settings.structure_level)
      streams, numbers = watching.rows(root, seeds, index)
      if given.video is not None:
        turn = given.turn(index)
        with watch.chain(len(gen1_edit.grid(self.system, chain)) - 1):
          asked = (numbers, prompt, turn.video, turn.mask)
          with self.devices.placed(asked) as (weights, rows):
            latents = editing.clip_latents(self._edits, weights, streams, *rows, chain)
      elif given.motion is None:
        with watch.chain(settings.steps):
          with self.devices.placed((numbers, prompt)) as (weights, rows):
            latents = self._sample(weights, streams, *rows, sampler, settings.frames)
      else:
        latents = self._motion(self.weights, given.motion[None])
        latents = jnp.repeat(latents, batch, axis=0)
      made = self.decode(latents, settings.decode_chunk, prompt)
      if given.mask is not None:
        made = turn.composed(made)
      if settings.replace_first_frame:
        made = np.asarray(lamd.with_first_frame(made, prompt.image))
      clips.extend(made)
      watch.clips(min(start + batch, settings.n))
    return clips[: settings.n]

  @functools.cached_property
  def _motion(self) -> Callable[..., jax.Array]:
    return jax.jit(self.system.motion)

  def decode(
    self, latents: jax.Array, chunk: int, prompt: types.Prompt = types.Prompt()
  ) -> np.ndarray:
    """Decodes latents [N,t,h,w,c] made with `prompt`, `chunk` clips a device at once.

    Returns uint8 on the host.
    """
    rows = (np.asarray(latents), prompt)
    return self.devices.in_chunks(lambda w, x: self._decode(w, *x), rows, chunk)

  def reconstruct(self, clips: np.ndarray, chunk: int = 4) -> np.ndarray:
    """Encodes and decodes clips [N,T,H,W,3] uint8, without noise."""
    if np.ndim(clips) != 5:
      raise ConfigError("reconstruct: give an array of clips [N,T,H,W,3] uint8")
    return self.devices.in_chunks(self._reconstruct, clips, chunk)

  def transfer(
    self, clips: np.ndarray, images: np.ndarray, chunk: int = 4
  ) -> np.ndarray:
    """Lets images [N,1,H,W,3] uint8 move as clips [N,T,H,W,3] uint8 do."""
    self._only("lamd", "motion transfer is")
    run = lambda weights, rows: self._decode(
      weights, self._motion(weights, rows[0]), types.Prompt(image=rows[1])
    )
    return self.devices.in_chunks(run, (clips, images), chunk)

  def _only(self, system: str, what: str) -> None:
    if self.config.system != system:
      raise ConfigError(f"{what} of {system}'s runs; this one is of {self.config.system}")

  def random_latents(
    self, n: int, seed: int, images: np.ndarray | None = None, chunk: int = 4
  ) -> np.ndarray:
    """Decodes standard normal latents: the baseline of generation.

    `images` [n,1,H,W,3] uint8 are what moves, in systems that animate.
    """
    streams = rng.Streams(rng.root(seed), jnp.zeros((), jnp.int32))
    latents = self.system.random_latents(streams, jnp.arange(n))
    return self.decode(latents, chunk, types.Prompt(image=images))


def from_workdir(
  config: ConfigDict, workdir: epath.Path, weights: str,
  lora: Sequence[adapters.Adapter] = (),
) -> Model:  # fmt: skip
  """Loads what `loading.gather` finds in the folder of a run or an export."""
  config, loaded = loading.gather(config, workdir, weights, lora)
  return Model(config, jax.device_put(loaded))


def load(
  path: str | os.PathLike[str],
  *,
  weights: str = "ema",
  lora: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
  lora_weight: float | Sequence[float] = 1.0,
) -> Model:
  """Loads a trained model from a folder, or from the Hub.

  Args:
    path: the folder of a run (its --workdir) or of an export (tools.export), or
      hub:OWNER/NAME[@REVISION]; the network is asked for the last alone.
    weights: "ema", the moving averages where a stage keeps them, or "raw".
    lora: LoRA files laid over the weights: one, or several that add.
    lora_weight: of all of them, or a list with one to each; 0 leaves the model as it is.

  Raises:
    ConfigError: no run in that folder. WeightsError: a stage is missing or damaged.
  """
  workdir = loading.locate(path)
  config = run_folder.read(workdir)
  if config is None:
    raise ConfigError(f"{path}: holds no run (no config.json)")
  if weights not in ("ema", "raw"):
    raise ConfigError(f"weights={weights}: choose ema or raw")
  compile_cache.enable()
  return from_workdir(config, workdir, weights, adapters.asked(lora, lora_weight))
