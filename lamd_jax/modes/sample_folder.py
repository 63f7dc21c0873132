# SPDX-License-Identifier: Apache-2.0
"""The folder that --mode=sample writes to: can it be, and what lies in it already.

What an earlier command wrote is known from its samples.json; nothing else is removed.
A video with a journal (edit.py, stream.py), which took long to make, never is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import json
import pathlib
import re
import tempfile
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from lamd_jax import exported
from lamd_jax import journal
from lamd_jax import sample_checks
from lamd_jax.errors import ConfigError
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import checkpoints
from lamd_jax.training import manifest

RECORD = "samples.json"
# A clip's file or folder of pictures, and those of its row on a page.
_OF_A_CLIP = re.compile(r"(?P<row>(?:input|depth|output)_)?(?P<i>\d{3,})(?P<kind>\.\w+)?")
_FORMAT = {None: "png", ".mp4": "mp4", ".gif": "gif"}
# Of all clips together, which every command may write.
_OF_ALL = ("samples.npz", "grid.mp4", "sheet.png", "strip.png")
_WEIGHTS = "weights_of"  # of a journal's settings


def check(folder: pathlib.Path) -> None:
  """Raises ConfigError, in one line, where nothing can be written in `folder`.

  A folder that this makes to try it is removed again: what goes wrong before the first
  file leaves nothing.
  """
  made: list[pathlib.Path] = []
  try:
    if folder.exists() and not folder.is_dir():
      raise ConfigError(f"--sample.out={folder}: is a file; name a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ConfigError(
      f"--sample.out={folder}: cannot be written ({error.strerror}); name another folder"
    ) from error
  finally:
    for path in made:
      with contextlib.suppress(OSError):  # not made, or a file is in it by now
        path.rmdir()


def check_free(folder: pathlib.Path, n: int, formats: Sequence[str]) -> None:
  """Raises ConfigError where clips would lie among the files of a video, or replace
  what no earlier command wrote.

  Args:
    folder: to write to.
    n: clips.
    formats: of them.
  """
  pictures = [folder / f"{i:03d}" for i in range(n)] if "png" in formats else []
  for path in (folder, *pictures):
    if (path / journal.NAME).exists():
      raise ConfigError(
        f"--sample.out={folder}: {path} holds a long or edited video, which clips would"
        " be mixed with; name another --sample.out"
      )
  if not folder.is_dir() or _earlier(folder):
    return
  for path in sorted(folder.iterdir()):
    found = _OF_A_CLIP.fullmatch(path.name)
    clip = found and int(found["i"]) < n and _FORMAT.get(found["kind"]) in formats
    if clip or path.name in _OF_ALL:
      raise ConfigError(
        f"--sample.out={folder}: holds {path.name}, which no earlier command says it"
        f" wrote ({RECORD}) and which would be replaced; name another --sample.out"
      )


def _earlier(folder: pathlib.Path) -> dict[str, Any]:
  """What the earlier command says that it wrote; {} where none can be read."""
  try:
    record = json.loads((folder / RECORD).read_text("utf-8"))
    sample, frames = record["sample"], record["frames"]
    return {"n": int(sample["n"]), "formats": sample["formats"], "frames": int(frames[0])}
  except (OSError, ValueError, LookupError, TypeError):
    return {}


def _written(folder: pathlib.Path, earlier: dict[str, Any]) -> Iterator[pathlib.Path]:
  """Yields the files that the earlier command wrote, samples.json last."""
  for path in sorted(folder.iterdir()):
    found = _OF_A_CLIP.fullmatch(path.name)
    if not found or int(found["i"]) >= earlier["n"]:
      continue
    if found["row"]:
      yield path
    elif _FORMAT.get(found["kind"]) in earlier["formats"]:
      # Picture by picture: what else lies in such a folder is not ours.
      pictures = (path / f"{t:05d}.png" for t in range(earlier["frames"]))
      yield from pictures if path.is_dir() else [path]
  # Only clips with their inputs beside them have a page.
  page = ["index.html"] if (folder / "output_000.mp4").is_file() else []
  for name in (*page, *_OF_ALL, RECORD):
    yield folder / name


def remove_old(folder: pathlib.Path) -> int:
  """Removes what an earlier command wrote; returns how many clips those were."""
  if not (earlier := _earlier(folder)):
    return 0
  for path in list(_written(folder, earlier)):
    if not path.is_dir():
      path.unlink(missing_ok=True)
    if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
      path.parent.rmdir()
  return earlier["n"]


def weights_of(
  folder: pathlib.Path, workdir: epath.Path, sample: ConfigDict, config: ConfigDict
) -> dict[str, dict[str, str]]:
  """What a journal's settings say of the weights: a run may be trained again.

  Hashes of what a run or an export has written about its files: those of all weights
  would take as long as reading them.

  Args:
    folder: of the video. Where one was begun without this, it goes on so: {}.
    workdir: the run, or the export.
    sample: `--sample.*`, which says what stages are used.
    config: of the run.
  """
  with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # see Journal
    if _WEIGHTS not in json.loads((folder / journal.NAME).read_text("utf-8"))["settings"]:
      return {}
  if exported.holds(workdir):
    files = exported.facts(workdir)["files"]
    tensors = {k: v for k, v in files.items() if k.endswith(".safetensors")}
    facts = {"export": json.dumps(tensors, sort_keys=True)}
  else:
    used = sample_checks.stages_of(sample, config)
    stages = SYSTEMS[config.system](config).stages()
    used = {*used, *(need for s in stages if s.name in used for need in s.needs)}
    facts = {name: _manifest(workdir / name) for name in sorted(used)}
  digest = lambda text: hashlib.sha256(text.encode()).hexdigest()[:12]
  return {_WEIGHTS: {name: digest(text) for name, text in facts.items() if text}}


def _manifest(stage_dir: epath.Path) -> str:
  """The manifest of a finished stage's weights; "" of what was not trained here."""
  if not checkpoints.finished(stage_dir):
    return ""
  step = str(checkpoints.finished_step(stage_dir))
  path = stage_dir / "checkpoints" / step / manifest.NAME
  return path.read_text() if path.exists() else ""
