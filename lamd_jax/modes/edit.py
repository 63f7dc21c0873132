# SPDX-License-Identifier: Apache-2.0
"""--mode=sample --sample.video=FILE: edits a video file, in a folder with a page.

  edited.mp4        size, times and sound of the input
  side_by_side.mp4  input, depth, output, also with the sound
  index.html        both, and the settings
  samples.json      what was asked
  journal.json      the windows that are finished, in segments/ and latents/: the same
                    command, broken off and started again, goes on after the last one
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import json
import pathlib
import time
from typing import Any

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import adapters
from lamd_jax import api
from lamd_jax import config as config_lib
from lamd_jax import editing
from lamd_jax import gallery
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax import sample_checks
from lamd_jax.data import edit_input
from lamd_jax.data import edit_output
from lamd_jax.errors import ConfigError
from lamd_jax.journal import Journal
from lamd_jax.modes import sample_folder
from lamd_jax.modes import units
from lamd_jax.training import preemption

EDITED, BESIDE = "edited.mp4", "side_by_side.mp4"
# Of --sample.*, what the API's calls do not take: what is loaded, and what is written.
NO_KNOBS = ("n", "weights", "formats", "out", "lora", "lora_weight")
_FILES = ("video", "image", "mask", "depth")
_INPUTS = (*_FILES, "text")  # what `plan_edit` takes beside its knobs
_NOT_OF_FRAMES = ("n", "formats", "out")  # all others change the frames
_PANEL = 360  # pixels, the most rows of the three pictures side by side


def _check(sample: ConfigDict, texts: Sequence[str]) -> None:
  usual = config_lib.sample_defaults()
  if sample.n not in (1, usual.n):
    raise ConfigError(
      f"--sample.n={sample.n}: a video is edited once a command; another --sample.seed"
      " makes another"
    )
  if sample_checks.formats(sample, ("mp4",)) not in (("mp4",), sample_checks.FORMATS):
    raise ConfigError(
      f"--sample.formats={','.join(sample.formats)}: an edited video is written as mp4"
    )
  if len(texts) > 1:
    raise ConfigError(f"--sample.text={sample.text}: a video is edited by one prompt")


def _panels(planned: editing.Edit, edited: pathlib.Path) -> Iterator[np.ndarray]:
  """Yields input, depth and output side by side, [h,n w,3] uint8."""
  height, width = _panel(planned.video)
  fitted = lambda frame: edit_input.fit(frame[None], height, width)[0]
  rows = [planned.input_frames(), edit_input.frames(edit_input.probe(edited))]
  if (depth := planned.depth_frames()) is not None:
    rows.insert(1, (np.repeat(frame, 3, axis=-1) for frame in depth))
  # An odd side was made even in the file that is read again.
  for pictures in zip(*rows, strict=True):
    yield np.concatenate([fitted(picture) for picture in pictures], axis=1)


def _panel(video: edit_input.UserVideo) -> tuple[int, int]:
  shrunk = min(1, _PANEL / video.height)
  return max(2, round(shrunk * video.height)), max(2, round(shrunk * video.width))


def _settings(sample: ConfigDict, text: str) -> dict[str, Any]:
  """All that the frames depend on, as the journal holds it."""
  chosen = {k: v for k, v in sample.items() if k not in _NOT_OF_FRAMES}
  files = {}
  for key in _FILES:
    path = pathlib.Path(sample[key] or ".")
    if path.is_file():
      with path.open("rb") as file:
        files[key] = hashlib.file_digest(file, "sha256").hexdigest()
  if sample.lora:
    chosen["lora"] = adapters.record(adapters.asked(sample.lora, sample.lora_weight))
  return {**chosen, "text": text, "sha256": files}


def digest(settings: Mapping[str, Any]) -> str:
  """Six letters that stand for settings in a folder's name."""
  text = json.dumps(settings, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:6]


def _write(planned: editing.Edit, journal: Journal, stop: preemption.Stop) -> None:
  """Makes the windows that the journal lacks, and the two videos of them."""
  folder, video = journal.folder, planned.video
  segment = lambda: journal.segment(len(journal.units))
  units.make(
    planned, journal,
    write=lambda begin, frames: edit_output.write_segment(segment(), video, frames),
    after=lambda: None, stop=stop,
  )  # fmt: skip
  paths = [journal.segment(unit.index) for unit in journal.units]
  edit_output.join(folder / EDITED, video, paths)
  height, width = _panel(video)
  count = 2 if planned.depth_frames() is None else 3
  wide = video._replace(height=height, width=count * width)
  edit_output.write(folder / BESIDE, wide, _panels(planned, folder / EDITED))


def _remove_if_empty(folder: pathlib.Path) -> None:
  """Removes a folder in which nothing was finished."""
  for part in (folder / "segments", folder / "latents", folder):
    if part.is_dir() and not any(part.iterdir()):
      part.rmdir()


def run(
  model: api.Model,
  config: ConfigDict,
  workdir: epath.Path,
  sample: ConfigDict,
  texts: Sequence[str],
) -> int:
  """Edits `sample.video` as `--sample.*` says; returns the exit code.

  Files get their names when they are whole; what is broken off leaves the windows that
  were finished, and nothing if none was.
  """
  _check(sample, texts)
  # A name has 255 bytes at most, and 100 of them are enough to know it by.
  stem = pathlib.Path(sample.video).stem.encode()[:100].decode(errors="ignore")
  settings = _settings(sample, texts[0])
  name = f"edit-{stem}-{sample.sampler}-{sample.steps}-seed{sample.seed}"
  name += f"-{digest(settings)}"  # another prompt is another folder
  folder = pathlib.Path(sample.out or workdir / "samples" / name)
  sample_folder.check(folder)
  settings |= sample_folder.weights_of(folder, workdir, sample, config)
  journal = Journal(folder, settings)
  if journal.finished():
    print(f"{folder / EDITED}: {journal.frames} frames, finished before", flush=True)
    return 0
  knobs = {k: v for k, v in sample.items() if k not in NO_KNOBS + _INPUTS}
  started = time.monotonic()
  planned = model.plan_edit(
    sample.video, text=texts[0], image=sample.image or None, mask=sample.mask or None,
    depth=sample.depth or None, **knobs,
  )  # fmt: skip
  notes = [*planned.notes, *edit_output.notes(planned.video)]
  for note in notes:
    print(note, flush=True)
  try:
    _write(planned, journal, preemption.Stop().install())
  except preemption.Preempted:
    return preemption.EXIT_CODE
  finally:
    _remove_if_empty(folder)
  print(f"in {time.monotonic() - started:.1f} s, compilation included", flush=True)
  record = {
    "sample": sample.to_dict(),
    "config_hash": run_folder.config_hash(config),
    "run": str(workdir),
    "lora": settings["lora"] or [],
    "notes": notes,
  }
  text = json.dumps(record, indent=2) + "\n"
  media.write_text(folder / "samples.json", text)
  kinds = "input, depth, output" if model.system.structured else "input, output"
  shown = ((BESIDE, kinds), (EDITED, "output"))
  rows = [gallery.row_html(None, [gallery.figure(*what, {})]) for what in shown]
  page = gallery.write_page(
    folder, f"An edit of {stem}", gallery.grid_html(rows, 1), [],
    {**sample, "notes": "; ".join(notes)},
  )  # fmt: skip
  journal.finish(EDITED)  # last: whoever starts again has nothing to do then
  print(f"video {folder / EDITED}, page {page}", flush=True)
  return 0
