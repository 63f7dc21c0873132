# SPDX-License-Identifier: Apache-2.0
"""Edited videos of any length, window by window, at constant memory.

Windows follow each other in the video's order and share a few frames. A window is held
to what the one before made of the shared frames (`systems.gen1_edit`), and over them
the two fade into each other. Held in memory are a window of the input, of the output,
and what the window before left: latents and frames of what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any, NamedTuple, TYPE_CHECKING

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import edit_sources
from lamd_jax import gallery
from lamd_jax import inputs
from lamd_jax import knobs as knobs_lib
from lamd_jax import rng
from lamd_jax import sample_checks
from lamd_jax import types
from lamd_jax import validation
from lamd_jax import watching
from lamd_jax.clip import Clip
from lamd_jax.data import captions
from lamd_jax.data import edit_input
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.interchange import dpt
from lamd_jax.networks.dpt import DPT_LARGE
from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_edit

if TYPE_CHECKING:
  from lamd_jax import api

Progress = Callable[[int, int], None]  # frames done, frames in all
Carry = Mapping[str, np.ndarray]
# A window of the video, of its mask and of its depth, where there are any.
Inputs = tuple[
  edit_input.Window, edit_input.Window | None, edit_input.Window | None
]
_ESTIMATED = 4  # frames that a depth estimator sees at once
_SHOWN = 16  # clips on a page, beside their inputs


class Programs:
  """The compiled functions of a system; they are kept between edits."""

  def __init__(self, system: gen1.Gen1):
    self.system = system
    self.edit = jax.jit(functools.partial(gen1_edit.edit, system), static_argnums=4)
    self.embed = jax.jit(system.embedding)
    self.inverse_depth = jax.jit(system.inverse_depth)
    self.decode = jax.jit(system.decode)


class Request(NamedTuple):
  """What is asked: checked settings, and what `Model.edit` was given."""

  settings: ConfigDict
  prompt: types.Prompt  # one row
  chain: gen1_edit.EditSettings
  video: Any
  mask: Any
  depth: Any
  fps: float  # of a video without any
  around: watching.Around  # of a window's chain


class Edit:
  """An edit of a video: all inputs are read and fitted, nothing is drawn yet.

  Windows are its units: each is a function of its number and of what the one before
  left, so that an edit which was broken off goes on to the same frames.

  Attributes:
    video: facts of the input.
    input_frames: yields its frames [H,W,3] uint8, as often as called.
    frames: how many there are, and will be.
    units: how many windows.
    notes: lines that say what was done to the inputs.
  """

  def __init__(
    self,
    programs: Programs,
    weights: dict[str, Any],
    config: ConfigDict,
    asked: Request,
  ):
    """Raises DataError or WeightsError, in one line, if an input cannot be used."""
    self._programs, self._weights, self._asked = programs, weights, asked
    settings, data = asked.settings, config.data
    source = edit_sources.footage(asked.video, asked.fps)
    self.video, self.input_frames = source
    self.frames = self.video.n_frames
    levels = len(config.model.denoiser.channel_mult)
    multiple = validation.factors(config)[1] * 2 ** (levels - 1)
    *self._size, fitted = edit_sources.working_size(self.video, data.size, multiple)
    self._window = min(settings.frames or data.frames, self.video.n_frames)
    # A video may be shorter than what its windows are to share.
    self._shared = min(settings.shared, self._window - 1)
    self._starts = edit_input.window_starts(self.frames, self._window, self._shared)
    self.units = len(self._starts)
    self._inputs: Iterator[Inputs] = iter(())
    self._next = -1  # the window that `_inputs` yields next; none
    self._embedded: jax.Array | None = None
    self._masks, masked = edit_sources.masks(asked.mask, self.video)
    self.notes = [note for note in (fitted, masked) if note]
    self._depth = None
    if programs.system.structured:
      inverse = self._inverse_depth(asked.depth)
      self._depth = edit_sources.Depth(inverse, *self._size)

  def _inverse_depth(self, given: Any) -> Iterator[np.ndarray]:
    is_weights = edit_sources.is_file(given) and str(given).endswith(".safetensors")
    if given is not None and not is_weights:
      return edit_sources.given_depth(given, self.video, *self._size)
    weights = self._weights
    if is_weights:
      weights = {gen1.DEPTH: {"params": jax.device_put(dpt.load(given, DPT_LARGE))}}
    return self._estimated({gen1.DEPTH: weights[gen1.DEPTH]})

  def _estimated(self, weights: dict[str, Any]) -> Iterator[np.ndarray]:
    frames = edit_sources.stretched(self.input_frames(), *self._size)
    # Windows that share nothing and whose last is filled up: one compiled program.
    while some := list(itertools.islice(frames, _ESTIMATED)):
      full = np.stack(some + [some[-1]] * (_ESTIMATED - len(some)))
      found = np.asarray(self._programs.inverse_depth(weights, full[None]))
      yield from found[0, : len(some)]

  def depth_frames(self) -> Iterator[np.ndarray] | None:
    """Returns the depth that was kept, [h,w,1] uint8 at the network's size."""
    return None if self._depth is None else self._depth.frames()

  def edited(self, progress: Progress) -> Iterator[np.ndarray]:
    """Yields the edited frames [H,W,3] uint8, as large and as many as the input's."""
    carry: Carry = {}
    done = 0
    for k in range(self.units):
      frames, carry = self.unit(k, carry)
      yield from frames
      done += len(frames)
      progress(done, self.frames)

  def unit(self, k: int, carry: Carry) -> tuple[np.ndarray, Carry]:
    """Edits window k.

    Args:
      k: from 0.
      carry: what window k - 1 returned; {} for window 0.

    Returns:
      The frames [n,H,W,3] uint8 that it finishes, of the input's size, and what it
      leaves for those that it shares with the next: `latents` [1,m,h,w,c] float32 and
      `tail` [m,h,w,3] uint8, decoded.
    """
    given, mask, depth = self._window_inputs(k)
    with self._asked.around(k):
      latents = self._latents(given, mask, depth, carry.get("latents"))
      latents = np.asarray(latents, np.float32)
    made = self._programs.decode(self._weights, latents, types.Prompt())
    made = np.asarray(made[0])
    if given.fresh:
      seam = cross_fade(carry["tail"], made[: given.fresh])
      made = np.concatenate([seam, made[given.fresh :]])
    last = k == self.units - 1
    step = self._window if last else self._starts[k + 1] - given.start
    sides = given.frames.shape[1:3]
    frames = np.stack(list(edit_sources.stretched(made[:step], *sides)))
    if mask is not None:
      frames = np.where(mask.frames[:step], frames, given.frames[:step])
    return frames, {"latents": latents[:, step:], "tail": made[step:]}

  def _window_inputs(self, k: int) -> Inputs:
    """What window k sees of video, mask and depth; in order they are read once."""
    if k != self._next:
      windows = lambda source: edit_input.windows(
        source, self.frames, self._window, self._shared
      )
      nothing = itertools.repeat(None)
      parts = zip(
        windows(self.input_frames()),
        windows(self._masks()) if self._masks else nothing,
        windows(self._depth.frames()) if self._depth else nothing,
      )
      self._inputs = itertools.islice(parts, k, None)
    self._next = k + 1
    return next(self._inputs)

  def _embedding(self) -> jax.Array:
    if self._embedded is None:
      root = rng.root(self._asked.settings.seed)
      streams = rng.Streams(root, jnp.zeros((), jnp.int32))
      self._embedded = self._programs.embed(
        self._weights, streams, jnp.zeros(1, jnp.int32), self._asked.prompt
      )
    return self._embedded

  def _latents(
    self,
    given: edit_input.Window,
    mask: edit_input.Window | None,
    depth: edit_input.Window | None,
    before: np.ndarray | None,
  ) -> jax.Array:
    """Latents [1,T,h,w,c] of a window that begins with those `before` [1,m,h,w,c]."""
    asked, size, system = self._asked, self._window, self._programs.system
    sides = [side // system.downsample[1] for side in self._size]
    known = np.zeros((1, size, *sides, system.latent_shape[-1]), np.float32)
    if before is not None:
      known[:, : given.fresh] = before
    video = inside = level = None
    if mask is not None or asked.chain.start != "noise":
      video = edit_input.fit(given.frames, *self._size)[None]
    if mask is not None:
      inside = edit_sources.touched(mask.frames, *self._size)[None]
    if depth is not None:
      level = np.full(1, asked.settings.structure_level, np.int32)
    window = gen1_edit.Window(
      index=np.zeros(1, np.int32),
      number=given.start + np.arange(size, dtype=np.int32)[None],
      known=known,
      held=(np.arange(size) < given.fresh).astype(np.float32)[None],
      video=video,
      mask=inside,
      depth=None if depth is None else depth.frames[None],
      level=level,
    )
    return self._programs.edit(
      self._weights, rng.root(asked.settings.seed), self._embedding(), window, asked.chain
    )


def plan(
  model: api.Model,
  programs: Programs,
  video: Any,
  *,
  text: str = "",
  image: Any = None,
  mask: Any = None,
  depth: Any = None,
  listener: watching.Listener,
  callback: watching.Callback | None = None,
  **knobs: Any,
) -> Edit:
  """Reads and checks all that an edit needs.

  Args:
    model: that edits.
    programs: of its system.
    video: a path, a `Clip` or an array [T,H,W,3] uint8, of any length and size.
    text: what it shall look like; or else
    image: the same, a path or an array [H,W,3] uint8.
    mask: white is edited: a path of a video or picture, or an array, [H,W] or [T,H,W],
      bool or uint8; None edits all.
    depth: a path of a grey video or of DPT-Large's weights, or inverse depth [T,H,W];
      None: by the network that the run was trained with.
    listener: of the model.
    callback: called at each step of a window's chain.
    **knobs: as of `Model.generate`; also structure_level, temporal_guidance, start and
      strength. `frames` is the length of a window, `shared` what two of them share.

  Raises:
    ConfigError, DataError, WeightsError: in one line.
  """
  if not isinstance(text, str):
    raise ConfigError(f"text={text!r:.80}: give a caption; a video is edited by one")
  if (n := knobs.get("n", 1)) != 1:
    raise ConfigError(f"n={n}: a video is edited once a call; another seed makes another")
  named = dict(video=video, image=image, mask=mask, depth=depth)
  named = {key: knobs_lib.name(value) for key, value in named.items()}
  settings = knobs_lib.settings(
    model.config, model.weights, {**knobs, "n": 1, "text": text, **named}
  )
  images = [] if image is None else [image]
  data, seed = model.config.data, model.config.seed
  pictures, notes = inputs.content(data, seed, 1, images, [text])
  given = inputs.Given([text], [-1], pictures, None)
  prompt = model.prompt(given, np.zeros(1, np.int32), settings.structure_level)
  chain = knobs_lib.edit(settings)
  sampler = watching.watched(chain.sampler, listener, callback)
  chain = dataclasses.replace(chain, sampler=sampler)
  steps = len(gen1_edit.grid(model.system, chain)) - 1
  around = watching.around_units(listener, callback, steps)
  asked = Request(settings, prompt, chain, video, mask, depth, model.fps, around)
  planned = Edit(programs, model.weights, model.config, asked)
  planned.notes[:0] = [*captions.notes(model.tokenize, [text]), *notes]
  return planned


def cross_fade(old: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Goes from frames `old` [n,H,W,3] uint8 over to `new`, both ends left out."""
  share = np.arange(1, len(new) + 1, dtype=np.float32) / (len(new) + 1)
  share = share[:, None, None, None]
  return ((1 - share) * old + share * new + 0.5).astype(np.uint8)


def whole(planned: Edit) -> Clip:
  """Says what was done to the inputs, and makes all frames."""
  inputs.say(planned.notes)
  frames = np.stack(list(planned.edited(lambda done, total: None)))
  return Clip(frames, float(planned.video.rate))


def held_out(
  model: api.Model, settings: ConfigDict, texts: Sequence[str], labels: Sequence[int],
  images: Sequence[Any],
) -> inputs.Given:  # fmt: skip
  """Held-out clips whose structure is filled with the content that is asked for.

  The clips themselves come along where the edit looks at them.
  """
  if settings.video:
    raise ConfigError(f"video={settings.video}: Model.edit edits it, generate does not")
  data, seed = model.config.data, model.config.seed
  pictures, notes = inputs.content(data, seed, settings.n, images, texts)
  inputs.say(notes)
  depth = None
  if model.system.structured:
    depth = model.depth_of_clips(data.eval_split, settings.n, seed)
  given = inputs.Given(texts, labels, pictures, None, depth)
  if not settings.mask and settings.start == "noise":
    return given
  video = pipeline.clips(data, data.eval_split, settings.n, seed)
  mask = None
  if settings.mask:
    number = int(settings.mask.removeprefix(sample_checks.INSTANCE))
    instances = pipeline.instances(data, data.eval_split, settings.n, seed)
    mask = (instances == number).astype(np.uint8)
    if not mask.any():
      raise DataError(f"mask={settings.mask}: no clip of {data.eval_split} shows it")
  return given._replace(video=video, mask=mask)


def columns(model: api.Model, clips: Sequence[Clip]) -> list[gallery.Column]:
  """Returns the first clips that `generate` made, beside what they were made of."""
  made = np.stack([clip.frames for clip in clips[:_SHOWN]])
  data, seed = model.config.data, model.config.seed
  asked = (data.eval_split, len(made), seed)
  turn = lambda rows: rows[np.arange(len(made)) % len(rows)]
  found = [gallery.Column("input", turn(pipeline.clips(data, *asked)))]
  if model.system.structured:
    depth = np.repeat(model.depth_of_clips(*asked), 3, axis=-1)
    found.append(gallery.Column("depth", turn(depth)))
  return [*found, gallery.Column("output", made)]


def clip_latents(
  programs: Programs, weights: dict[str, Any], streams: rng.Streams, index: np.ndarray,
  prompt: types.Prompt, video: jax.Array, mask: jax.Array | None,
  chain: gen1_edit.EditSettings,
) -> jax.Array:  # fmt: skip
  """Edits clips, a window each: latents [B,T,h,w,c].

  Args:
    programs: compiled.
    weights: by stage.
    streams: random streams.
    index: [B] int32, whose noise a clip gets.
    prompt: of each row.
    video: clips [B,T,H,W,3] uint8.
    mask: [B,T,H,W,1] uint8, 1 where they are edited; None: everywhere.
    chain: the settings.
  """
  shape = (*video.shape[:2], *programs.system.latent_shape[1:])
  window = gen1_edit.Window(
    index=index,
    number=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape[:2]),
    known=np.zeros(shape, np.float32),
    held=np.zeros(shape[:2], np.float32),
    video=video,
    mask=mask,
    depth=prompt.depth,
    level=prompt.structure_level,
  )
  embedding = programs.embed(weights, streams, index, prompt)
  return programs.edit(weights, streams.root, embedding, window, chain)
