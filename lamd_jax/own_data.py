# SPDX-License-Identifier: Apache-2.0
"""From a folder of videos to settings that fit it, and why: `data.choose`.

Source, size, length, stride and whether captions are learnt are chosen from the index;
whatever is typed on the command line stays as typed. A run that was begun keeps what
was chosen for it, whatever has come into the folder since.
"""

from __future__ import annotations

from collections.abc import Collection
import pathlib
import statistics
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lamd_jax import limits
from lamd_jax.data import clips
from lamd_jax.data import layouts
from lamd_jax.data import listings
from lamd_jax.data.records import Entry
from lamd_jax.data.sources import files
from lamd_jax.data.sources import registry
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError

_CLIP_SECONDS = 2.0  # what a clip should show, where videos are long enough
_SHARE = 0.9  # of the videos that must be long enough for the clip
_LENGTHS = (16, 8, 4)  # frames of a clip, multiples of the autoencoder's 4
_SIZES = {"demo": (32, 16), "gpu": (128, 64, 32)}  # pixels, largest first
_WINDOWS = 512  # cached clips that a small folder is cut into
_FEW = 100  # videos
_SCORED = 16  # held-out videos, half of them the floor's
# What of config may change by the choice, beside the groups below.
_CHOSEN = (
  "data.source", "data.root", "data.size", "data.frames", "data.stride",
  "data.pad_last", "data.tokenizer", "data.tokens", "data.vocabulary_size",
  "model.denoiser.temporal_length", "model.denoiser.transformer",
  "model.denoiser.temporal_zero_init", "model.denoiser.scale_shift_norm",
  "model.text.encoder", "model.text.width", "model.text.layers", "model.text.heads",
  "diffusion.guidance", "train.latent_windows", "optim.autoencoder.batch",
  "train.report",
)  # fmt: skip


class Folder(NamedTuple):
  """What a folder holds, after its videos were decoded once."""

  root: pathlib.Path
  source: str  # data.source that reads it
  name: str  # of its layout
  entries: list[Entry]  # readable ones
  bad: int
  notes: list[str]


class Choice(NamedTuple):
  """Values by key, and the lines that explain them."""

  values: dict[str, Any]
  lines: list[str]


def look(root: str) -> Folder:
  """Recognises a folder and brings its index up to date. Raises DataError."""
  top = files.check_root(root)
  layout = layouts.recognise(top)
  if layout is None or layout.source not in registry.SCAN:
    found = layout.name if layout else "no video and no folder of pictures"
    raise DataError(
      f"--config.data.root={root}: holds {found}; see python -m"
      f" lamd_jax.tools.doctor {root}"
    )
  below = top / layout.root
  entries, notes = listings.indexed(below, registry.SCAN[layout.source])
  good = [entry for entry in entries if not entry.error]
  if not good:
    raise DataError(
      f"--config.data.root={root}: none of its {len(entries)} videos can be read; see"
      f" python -m lamd_jax.tools.doctor {root}"
    )
  return Folder(
    below, layout.source, layout.name, good, len(entries) - len(good), notes
  )


def _below(root: str) -> str:
  """The folder that a layout's files lie in, at or below `root`."""
  top = pathlib.Path(root).expanduser()
  layout = layouts.recognise(top) if top.is_dir() else None
  return str(top / layout.root) if layout else root


def _length(
  folder: Folder, config: ConfigDict, typed: Collection[str]
) -> tuple[int, int, bool, str]:
  """Returns frames, stride, whether short videos are filled up, and why."""
  counts = [entry.n_frames for entry in folder.entries]
  rates = [entry.fps for entry in folder.entries if entry.fps]
  rate = statistics.median(rates) if rates else config.data.fps
  data = config.data
  lengths = (data.frames,) if "data.frames" in typed else _LENGTHS
  for frames in lengths:
    wanted = max(1, round(_CLIP_SECONDS * rate / frames))
    strides = (data.stride,) if "data.stride" in typed else range(wanted, 0, -1)
    for stride in strides:
      fit = sum(n >= (frames - 1) * stride + 1 for n in counts)
      if fit >= _SHARE * len(counts):
        return frames, stride, False, (
          f"frames {frames}, every {_nth(stride)} of the file:"
          f" {frames * stride / rate:.1f} s at {rate:.4g} frames a second;"
          f" {fit} of {len(counts)} videos are that long"
        )  # fmt: skip
  return lengths[-1], strides[-1], True, (
    f"frames {lengths[-1]}: more than a tenth of the videos are shorter still, their"
    " last frame is repeated (data.pad_last)"
  )  # fmt: skip


def _nth(stride: int) -> str:
  return {1: "one", 2: "second", 3: "third"}.get(stride, f"{stride}th")


def _size(
  folder: Folder, config: ConfigDict, typed: Collection[str]
) -> tuple[int, str]:
  short = statistics.median(min(e.height, e.width) for e in folder.entries)
  known = f"the videos' median short side is {short:g} pixels"
  if "data.size" in typed:
    return config.data.size, f"size {config.data.size}: as typed; {known}"
  sizes = _SIZES[config.variant]
  size = next((s for s in sizes if s <= short), sizes[-1])
  why = {
    "demo": "what two CPU cores train in minutes; 64 takes about four times as long",
    "gpu": "what one GPU trains in hours",
  }[config.variant]
  if size != sizes[0]:
    why = "the largest that needs no enlarging"
  return size, f"size {size}: {why}; {known}"


def _captions(folder: Folder) -> tuple[bool, str]:
  told = sum(bool(entry.caption) for entry in folder.entries)
  count = len(folder.entries)
  if told >= _SHARE * count:
    return True, f"captions {told} of {count}: the model learns to follow text"
  if told:
    return False, (
      f"captions {told} of {count}: too few to learn from, left out; caption the others"
    )
  return False, "captions none: the model makes clips without text"


def _usable(
  folder: Folder, config: ConfigDict, values: dict[str, Any]
) -> tuple[int, int]:
  """How many videos to train on, and held out, are long enough for the clip."""
  need = clips.span(
    values["data.frames"], values["data.stride"], config.data.sampling,
    values["data.pad_last"],
  )  # fmt: skip
  entries = folder.entries
  usable = [entry.n_frames >= need for entry in entries]
  if not any(entry.split for entry in entries):
    if sum(usable) == 1:
      return 1, 1
    entries = files.draw_splits(entries, usable)
  fit = [e.split == config.data.split for e, ok in zip(entries, usable) if ok]
  return max(1, sum(fit)), len(fit) - sum(fit)


def choose(folder: Folder, config: ConfigDict, typed: Collection[str]) -> Choice:
  """Chooses settings for a folder; `typed` keys are left as they are."""
  size, size_line = _size(folder, config, typed)
  frames, stride, pad, length_line = _length(folder, config, typed)
  text, caption_line = _captions(folder)
  count = len(folder.entries)
  values: dict[str, Any] = {
    "data.source": folder.source, "data.root": str(folder.root), "data.size": size,
    "data.frames": frames, "data.stride": stride, "data.pad_last": pad,
    "model.denoiser.temporal_length":
      max(1, frames // config.model.autoencoder.downsample[0]),
    "train.latent_windows": max(1, min(64, -(-_WINDOWS // count))),
  }  # fmt: skip
  trained, held_out = _usable(folder, config, values)
  few = trained < config.optim.autoencoder.batch
  if held_out < _SCORED:
    values["train.report"] = False
  if few:  # a batch holds no clip twice
    values["optim.autoencoder.batch"] = trained
  if text:
    values |= {
      "data.tokenizer": "words", "data.tokens": 32, "data.vocabulary_size": 4096,
      "model.denoiser.transformer": True, "model.denoiser.temporal_zero_init": False,
      "model.denoiser.scale_shift_norm": False, "model.text.encoder": "small",
      "model.text.width": 128, "model.text.layers": 2, "model.text.heads": 4,
      "diffusion.guidance": 3.0,
    }  # fmt: skip
  bad = f", {folder.bad} more cannot be read" if folder.bad else ""
  lines = [f"own data {folder.name}, {count} videos{bad}: data.source={folder.source}"]
  lines += [f"  {note}" for note in folder.notes]
  lines += [f"  {line}" for line in (size_line, length_line, caption_line)]
  kept = sorted(values.keys() & set(typed) - {"data.root"})
  if few:
    lines.append(f"  batch {trained} of the autoencoder: there are no more to train on")
  if held_out < _SCORED:
    lines.append(
      f"  scores none at the end: {held_out} of the videos held out, {_SCORED} are needed;"
      " look at samples (--mode=sample)"
    )
  known = {key: x for key, x in values.items() if key not in kept}
  if kept:
    lines.append(f"  as typed: {', '.join(kept)}")
  return Choice(known, lines)


def settle(
  config: ConfigDict, stored: ConfigDict | None, typed: Collection[str]
) -> list[str]:
  """Fills in what `data.choose` leaves open; returns lines that say what and why.

  Args:
    config: changed in place; `data.choose` is off afterwards.
    stored: of the run that is gone on with, if there is one: its choice stays.
    typed: dotted keys of the command line.

  Raises:
    ConfigError: the run learns from another folder, which is still there.
    DataError: no folder, or nothing in it that can be read.
  """
  if stored is not None:
    known = dict(limits.leaves(stored))
    values = {key: known[key] for key in _CHOSEN if key not in typed}
    if "data.root" in typed:  # the videos may have moved
      values["data.root"] = _below(config.data.root)
      old, new = (
        pathlib.Path(root).expanduser().resolve()
        for root in (stored.data.root, values["data.root"])
      )
      if old != new and old.is_dir():
        raise ConfigError(
          f"--config.data.root={config.data.root}: this run learns from {old}, which is"
          " still there; name another --workdir for other videos"
        )
    choice = Choice(values, ["own data: settings as chosen when this run was begun"])
  else:
    choice = choose(look(config.data.root), config, typed)
  with config.unlocked():
    config.update_from_flattened_dict({**choice.values, "data.choose": False})
  return choice.lines


def advice(folder: Folder, config: ConfigDict) -> list[str]:
  """What somebody who has trained such models would say of a folder."""
  entries = folder.entries
  lines = []
  if len(entries) < _FEW:
    lines.append(
      f"{len(entries)} videos are few: expect a model that remembers them; some hundred"
      " of one kind of scene are a start"
    )
  wide = statistics.median(
    max(e.height, e.width) / max(1, min(e.height, e.width)) for e in entries
  )
  if wide > 1.2:
    lost = 100 * (1 - 1 / wide)
    lines.append(
      f"clips are the middle square of the picture, without {lost:.0f} % of it; if what"
      " matters is at the edges, crop first, or say --config.data.resize=letterbox"
    )
  rates = {round(e.fps, 1) for e in entries if e.fps}
  if len(rates) > 1 and max(rates) > 1.5 * min(rates):
    lines.append(
      f"rates from {min(rates):g} to {max(rates):g} frames a second: the same motion is"
      " learnt at several speeds; bring the videos to one rate"
    )
  longest = max(e.n_frames for e in entries)
  median = statistics.median(e.n_frames for e in entries)
  if longest > 20 * median:
    lines.append(
      "a few videos are very long: each is drawn as often as a short one; cut them up"
    )
  if not any(e.caption for e in entries):
    lines.append(
      "for text-to-video put a caption beside each video: clip.txt beside clip.mp4, or"
      " a csv with columns path,text"
    )
  return lines + choose(folder, config, ()).lines
