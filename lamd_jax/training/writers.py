# SPDX-License-Identifier: Apache-2.0
"""Where a run's numbers and clips go, under clu's method names.

`metrics.jsonl` is the record of truth: after a resume it holds what the unbroken run
would have written, but for the times (`seconds`, `input_wait`, `tflops_per_second`,
`utilisation`). The console and TensorBoard mirror it; previews lie under
`samples/step_N/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import json
import math
import os
import time
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import media
from lamd_jax.errors import ConfigError
from lamd_jax.training import status as status_lib
from lamd_jax.training import tensorboard
from lamd_jax.training.console import Console

Clips = Mapping[str, np.ndarray]  # name -> [N,T,H,W,3] uint8
Scalars = Mapping[str, float]
INPUT_WAIT = "input_wait"  # share of the time that the devices waited for batches


class Writer:
  """The interface; by itself it writes nothing, as on all processes but the first."""

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    """Writes float scalars measured at `step`."""

  def write_videos(self, step: int, videos: Clips) -> None:
    """Writes clips, each [N,T,H,W,3] uint8."""

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Writes the run's settings, JSON values by flat name."""

  def advance(self, step: int) -> None:
    """Says that `step` was started; called at each step, must be cheap."""

  def rewind(self, step: int) -> None:
    """Forgets what was written beyond `step`: the run continues from there."""

  def keep(self) -> None:
    """Stores what was written so far: the state of this step is stored, too."""

  def flush(self) -> None:
    """Makes what was written so far readable."""

  def close(self) -> None:
    """Flushes and lets go of all files."""


class MultiWriter(Writer):
  """Passes everything on to several writers."""

  def __init__(self, writers: Sequence[Writer]):
    self._writers = tuple(writers)

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def write_videos(self, step: int, videos: Clips) -> None:
    for writer in self._writers:
      writer.write_videos(step, videos)

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    for writer in self._writers:
      writer.write_hparams(hparams)

  def advance(self, step: int) -> None:
    for writer in self._writers:
      writer.advance(step)

  def rewind(self, step: int) -> None:
    for writer in self._writers:
      writer.rewind(step)

  def keep(self) -> None:
    for writer in self._writers:
      writer.keep()

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()

  def close(self) -> None:
    for writer in self._writers:
      writer.close()


class ConsoleWriter(Writer):
  """One live line; see `console.Console`."""

  def __init__(self, console: Console):
    self._console = console

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    if INPUT_WAIT in scalars:
      self._console.input_wait(scalars[INPUT_WAIT])
    self._console.losses(step, scalars)

  def advance(self, step: int) -> None:
    self._console.advance(step)

  def rewind(self, step: int) -> None:
    self._console.start(step)

  def flush(self) -> None:
    self._console.line()

  def close(self) -> None:
    self._console.line()


class StatusWriter(Writer):
  """Keeps the run's STATUS at the stage's step."""

  def __init__(self, status: status_lib.Status):
    self._status = status

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    if INPUT_WAIT in scalars:
      self._status.input_wait(scalars[INPUT_WAIT])

  def advance(self, step: int) -> None:
    self._status.step(step)


class JsonlWriter(Writer):
  """One JSON object a line: {"step": N, "seconds": since start, name: value, ...}.

  A value that is not finite is written as null, since JSON has no NaN.
  """

  def __init__(self, path: epath.PathLike):
    self._path = epath.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._start = time.monotonic()
    self._text = self._path.read_text() if self._path.exists() else ""
    # A bucket cannot append, so there the (small) file is written anew.
    self._remote = "://" in os.fspath(self._path)

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    row = {name: x if math.isfinite(x) else None for name, x in scalars.items()}
    seconds = round(time.monotonic() - self._start, 2)
    line = json.dumps({"step": step, "seconds": seconds, **row}) + "\n"
    self._text += line
    if self._remote:
      return
    with self._path.open("a") as handle:
      handle.write(line)

  def rewind(self, step: int) -> None:
    kept = [line for line in self._text.splitlines() if _step_of(line) <= step]
    self._text = "".join(f"{line}\n" for line in kept)
    self._rewrite()

  def keep(self) -> None:
    if self._remote:
      self._rewrite()

  def flush(self) -> None:
    self.keep()

  def close(self) -> None:
    self.keep()

  def _rewrite(self) -> None:
    partial = self._path.with_name(f".{self._path.name}.part")
    partial.write_text(self._text)
    partial.replace(self._path)


def _step_of(line: str) -> float:
  """The step of a record; infinite for half a line that a killed run left."""
  try:
    return int(json.loads(line)["step"])
  except (ValueError, KeyError, TypeError):
    return math.inf


class SampleWriter(Writer):
  """Writes clips as `samples/step_N/{name}.mp4`, `grid.gif` and `meta.json`."""

  def __init__(self, workdir: epath.PathLike, fps: float):
    """Args: the stage's folder, and the display rate in frames a second."""
    self._folder = epath.Path(workdir) / "samples"
    self._fps = fps

  def write_videos(self, step: int, videos: Clips) -> None:
    folder = self._folder / f"step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, clips in videos.items():
      sheet = media.grid(clips, columns=1)
      media.write_mp4(folder / f"{name}.mp4", sheet, self._fps)
    sheet = side_by_side(videos)
    (folder / "grid.gif").write_bytes(media.encode_gif(sheet, self._fps))
    meta = {
      "step": step,
      "fps": self._fps,
      "columns": list(videos),
      "shapes": {name: list(clips.shape) for name, clips in videos.items()},
      "fixed": "same inputs and noise at every step; rows are samples",
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


class TensorBoardWriter(Writer):
  """Mirrors scalars, settings and clips into an event file."""

  def __init__(self, folder: epath.PathLike, fps: float):
    """Args: where the file goes, and the display rate in frames a second."""
    self._file = tensorboard.EventFile(folder)
    self._fps = fps

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    self._file.scalars(step, scalars)
    self._file.flush()

  def write_videos(self, step: int, videos: Clips) -> None:
    for name, clips in videos.items():
      sheet = media.grid(clips)
      gif = media.encode_gif(sheet, self._fps)
      self._file.image(step, name, gif, sheet.shape[1], sheet.shape[2])
    self._file.flush()

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    rows = "".join(f"| {name} | {value} |\n" for name, value in hparams.items())
    self._file.text(0, "hparams", f"| name | value |\n|---|---|\n{rows}")
    self._file.flush()

  def rewind(self, step: int) -> None:
    self._file.restart(step)

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class WandbWriter(Writer):
  """Mirrors scalars, settings and clips to Weights & Biases.

  Nothing leaves the machine unless WANDB_MODE=online is set: what is written under the
  folder can be sent later, by `wandb sync`.
  """

  def __init__(self, folder: epath.PathLike, stage: str, fps: float):
    """Args: the stage's folder and name, and the display rate in frames a second.

    Raises:
      ConfigError: the package is not installed.
    """
    try:
      import wandb  # Late: an optional package.
    except ImportError as error:
      raise ConfigError(
        "--config.train.wandb=true: needs wandb, pip install 'lamd_jax[wandb]'"
      ) from error
    self._wandb, self._fps = wandb, fps
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    self._run = wandb.init(
      project="lamd_jax", group=folder.parent.name, name=f"{folder.parent.name}/{stage}",
      dir=os.fspath(folder), mode=os.environ.get("WANDB_MODE", "offline"),
      reinit="finish_previous",
    )  # fmt: skip

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    self._run.log(dict(scalars), step=step)

  def write_videos(self, step: int, videos: Clips) -> None:
    found = {}
    for name, clips in videos.items():
      gif = io.BytesIO(media.encode_gif(media.grid(clips), self._fps))
      found[name] = self._wandb.Video(gif, format="gif")
    self._run.log(found, step=step)

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    self._run.config.update(dict(hparams), allow_val_change=True)

  def close(self) -> None:
    self._run.finish()


def side_by_side(videos: Clips) -> np.ndarray:
  """Lays clips out with a column per name and a row per sample: [T,H',W',3] uint8.

  Names whose clips have another shape than the first are left out.
  """
  shape = next(iter(videos.values())).shape
  alike = [clips for clips in videos.values() if clips.shape == shape]
  # [N,names,T,H,W,3]: row by row, as grid tiles them.
  tiles = np.stack(alike, axis=1).reshape(-1, *shape[1:])
  return media.grid(tiles, columns=len(alike))


def for_stage(
  train: ConfigDict,
  stage: str,
  workdir: epath.PathLike,
  *,
  steps: int,
  fps: float,
  status: status_lib.Status | None = None,
) -> Writer:
  """Returns the writers of one stage.

  Args:
    train: `config.train`.
    stage: the stage's name, for the console.
    workdir: the stage's folder.
    steps: its last step, for the time left.
    fps: display rate of clips, frames a second.
    status: of the run, to be kept up to date; None for none.
  """
  if jax.process_index() != 0:
    return Writer()
  folder = epath.Path(workdir)
  writers: list[Writer] = [
    ConsoleWriter(Console(stage, steps)),
    JsonlWriter(folder / "metrics.jsonl"),
    SampleWriter(folder, fps),
  ]
  if train.tensorboard:
    writers.append(TensorBoardWriter(folder / "tensorboard", fps))
  if train.wandb:
    writers.append(WandbWriter(folder, stage, fps))
  if status is not None:
    writers.append(StatusWriter(status))
  return MultiWriter(writers)
