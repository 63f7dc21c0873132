# SPDX-License-Identifier: Apache-2.0
"""--mode=sample --sample.video=FILE: edits a video file, in a folder with a page.

  edited.mp4        size, times and sound of the input
  side_by_side.mp4  input, depth, output, also with the sound
  index.html        both, and the settings
  samples.json      what was asked
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
import pathlib
import time

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import api
from lamd_jax import config as config_lib
from lamd_jax import editing
from lamd_jax import gallery
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax.data import edit_input
from lamd_jax.data import edit_output
from lamd_jax.errors import ConfigError

EDITED, BESIDE = "edited.mp4", "side_by_side.mp4"
# What does not change the frames, and what `plan_edit` takes beside its knobs.
_OF_FILES = ("n", "weights", "formats", "out")
_INPUTS = ("video", "text", "image", "mask", "depth")
_PANEL = 360  # pixels, the most rows of the three pictures side by side


def _check(sample: ConfigDict, texts: Sequence[str]) -> None:
  usual = config_lib.sample_defaults()
  if sample.n not in (1, usual.n):
    raise ConfigError(
      f"--sample.n={sample.n}: a video is edited once a command; another --sample.seed"
      " makes another"
    )
  if tuple(sample.formats) not in (("mp4",), tuple(usual.formats)):
    raise ConfigError(
      f"--sample.formats={','.join(sample.formats)}: an edited video is written as mp4"
    )
  if len(texts) > 1:
    raise ConfigError(f"--sample.text={sample.text}: a video is edited by one prompt")


def _panels(planned: editing.Edit, edited: pathlib.Path) -> Iterator[np.ndarray]:
  """Yields input, depth and output side by side, [h,n w,3] uint8."""
  height, width = _panel(planned.video)
  fitted = lambda frame: edit_input.fit(frame[None], height, width)[0]
  rows = [planned.frames(), edit_input.frames(edit_input.probe(edited))]
  if (depth := planned.depth_frames()) is not None:
    rows.insert(1, (np.repeat(frame, 3, axis=-1) for frame in depth))
  # An odd side was made even in the file that is read again.
  for pictures in zip(*rows, strict=True):
    yield np.concatenate([fitted(picture) for picture in pictures], axis=1)


def _panel(video: edit_input.UserVideo) -> tuple[int, int]:
  shrunk = min(1, _PANEL / video.height)
  return max(2, round(shrunk * video.height)), max(2, round(shrunk * video.width))


def _write(planned: editing.Edit, folder: pathlib.Path) -> None:
  def show(done: int, total: int) -> None:
    print(f"\redited {done}/{total} frames", end="", flush=True)

  edit_output.write(folder / EDITED, planned.video, planned.edited(show))
  print(flush=True)
  height, width = _panel(planned.video)
  count = 2 if planned.depth_frames() is None else 3
  wide = planned.video._replace(height=height, width=count * width)
  edit_output.write(folder / BESIDE, wide, _panels(planned, folder / EDITED))


def run(
  model: api.Model,
  config: ConfigDict,
  workdir: epath.Path,
  sample: ConfigDict,
  texts: Sequence[str],
) -> int:
  """Edits `sample.video` as `--sample.*` says; returns the exit code.

  Files get their names when they are whole; what is broken off leaves none.
  """
  _check(sample, texts)
  stem = pathlib.Path(sample.video).stem
  name = f"edit-{stem}-{sample.sampler}-{sample.steps}-seed{sample.seed}"
  folder = pathlib.Path(sample.out or workdir / "samples" / name)
  knobs = {k: v for k, v in sample.items() if k not in _OF_FILES + _INPUTS}
  started = time.monotonic()
  planned = model.plan_edit(
    sample.video, text=texts[0], image=sample.image or None, mask=sample.mask or None,
    depth=sample.depth or None, **knobs,
  )  # fmt: skip
  notes = [*planned.notes, *edit_output.notes(planned.video)]
  for note in notes:
    print(note, flush=True)
  try:
    _write(planned, folder)
  finally:
    if folder.is_dir() and not any(folder.iterdir()):
      folder.rmdir()
  print(f"in {time.monotonic() - started:.1f} s, compilation included", flush=True)
  record = {
    "sample": sample.to_dict(),
    "config_hash": run_folder.config_hash(config),
    "run": str(workdir),
    "notes": notes,
  }
  text = json.dumps(record, indent=2) + "\n"
  media.atomically(folder / "samples.json", lambda path: path.write_text(text, "utf-8"))
  kinds = "input, depth, output" if model.system.structured else "input, output"
  figures = [gallery.figure(BESIDE, kinds), gallery.figure(EDITED, "output")]
  page = gallery.write_page(
    folder, f"An edit of {stem}", figures, 1, [], {**sample, "notes": "; ".join(notes)}
  )
  print(f"video {folder / EDITED}, page {page}", flush=True)
  return 0
