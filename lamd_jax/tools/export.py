# SPDX-License-Identifier: Apache-2.0
"""A run as a folder to pass on: weights, config, model card, samples.

  python -m lamd_jax.tools.export --workdir=runs/lvdm_sky-demo --out=sky

`lamd_jax.load("sky")` and `--workdir=sky --mode=sample` read it; with --push=OWNER/NAME
it is uploaded to the Hub as well, where `lamd_jax.load("hub:OWNER/NAME")` finds it.
Layout: lamd_jax/exported.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata
import json
import os
import pathlib
import shutil
import sys

from etils import epath
from ml_collections import ConfigDict

from lamd_jax import adapters
from lamd_jax import errors
from lamd_jax import exported
from lamd_jax import hub
from lamd_jax import limits
from lamd_jax import loading
from lamd_jax import run_folder
from lamd_jax import run_scores
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.modes import imported
from lamd_jax.tools import paths
from lamd_jax.training import checkpoints

_SAMPLES = 6  # clips that travel along
_TASKS = {"lvdm": "text-to-video", "lamd": "image-to-video", "gen1": "video-to-video"}
# Data sets whose terms follow the weights.
_TERMS = {
  "csv": "If this was WebVid: its terms allow research only, and it is withdrawn.",
  "taichi": "The videos are their uploaders'; research only.",
  "landscape": "The videos are their uploaders'; research only.",
  "ucf101": "UCF-101: the videos are their uploaders'; research only.",
  "mug": "MUG: by agreement, research only; faces of consenting subjects.",
}  # fmt: skip
# Keys of files whose tensors the export holds, or that only training reads: of their
# paths the names stay, which say what it was.
_NETWORK_FILES = (
  "model.autoencoder_weights", "model.text.weights", "model.denoiser_weights",
  "model.content.image_weights", "model.content.text_weights",
  "model.structure.depth_weights", "model.perceptual.weights",
)  # fmt: skip


def _config(
  config: ConfigDict, workdir: epath.Path, folder: pathlib.Path
) -> ConfigDict:
  """The config as it travels: no folder of this machine, files beside it."""
  out = config.copy_and_resolve_references()
  with out.unlocked():
    out.data.fps = float(pipeline.fps(config.data))  # known without the data
    if config.data.source != "procedural":
      out.data.update(root="", depth_root="")
    if config.data.vocabulary:
      source = pathlib.Path(imported.find(config.data.vocabulary, workdir))
      try:
        shutil.copyfile(source, folder / source.name)
      except OSError as error:
        raise WeightsError(
          f"--config.data.vocabulary={source}: cannot be copied ({error.strerror})"
        ) from error
      out.data.vocabulary = source.name
    known = dict(limits.leaves(config))
    out.update_from_flattened_dict(
      {key: pathlib.Path(known[key]).name for key in _NETWORK_FILES}
    )
  return out


def _averaged(workdir: epath.Path, stages: Sequence[str]) -> bool:
  """Whether any stage has weights that differ from its averages."""
  if exported.holds(workdir):
    return any("_raw" in n for n in exported.facts(workdir)["files"])
  return any(
    checkpoints.averaged_groups(workdir / s)
    for s in stages if checkpoints.finished(workdir / s)
  )  # fmt: skip


def _samples(workdir: pathlib.Path, folder: pathlib.Path) -> list[str]:
  """Copies what the run generated; returns the names."""
  found = sorted((workdir / "gallery").glob("generated_*.mp4"))
  found = found or sorted((workdir / "samples").glob("*/[0-9][0-9][0-9].mp4"))
  names = []
  for i, path in enumerate(found[:_SAMPLES]):
    (folder / "samples").mkdir(exist_ok=True)
    names.append(f"samples/{i:03d}.mp4")
    shutil.copyfile(path, folder / names[-1])
  return names


def _plain(text: str) -> str:
  """Text of a run inside Markdown: no html, no cell ends."""
  escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
  return " ".join(escaped.split())


def card(
  config: ConfigDict, fps: float, scores: Sequence[run_scores.Score],
  samples: Sequence[str], borrowed: Sequence[str], licence: str,
) -> str:  # fmt: skip
  """Returns the model card."""
  data, name = config.data, f"{config.name}-{config.variant}"
  where = data.name or data.source
  if data.source == "procedural":
    where = f"the procedural world {data.world}"
  # Hugging Face has no name for video that nothing is asked of.
  asked = config.system != "lvdm" or config.model.text.encoder != "none"
  table = "\n".join(
    f"| {_plain(s.protocol)} | {_plain(s.what)} | {s.text()} |" for s in scores
  )
  video = '<video src="{}" controls loop muted width="256"></video>'
  shown = "\n".join(video.format(name) for name in samples)
  lines = [
    "---", "library_name: lamd_jax", f"license: {json.dumps(licence)}",
    *([f"pipeline_tag: {_TASKS[config.system]}"] if asked else []),
    f"tags: [video, jax, {config.system}]", "---",
    "", f"# {_plain(name)}", "",
    f"{config.system.upper()} trained with lamd_jax: clips of {data.frames} frames of"
    f" {data.size} x {data.size} at {fps:g} frames a second.",
    "", "```python", "import lamd_jax", "",
    'model = lamd_jax.load("PATH_OF_THIS_FOLDER")  # or "hub:OWNER/NAME"',
    "clip = model.generate(seed=0)", 'clip.save("clip.mp4")', "```", "",
    "## Scores", "",
    *(["| protocol | what | value, 95 % interval |", "|---|---|---|", table]
      if scores else ["Not scored: the run has no eval/report.json."]),
    "", "## Training data", "",
    f"{_plain(where)}, split {_plain(data.split)}. {_TERMS.get(data.source, '')}",
    "", "## Limits", "",
    "It makes what its data show, at that size, with the errors that its scores and"
    " samples tell of. Generated clips are no record of anything that happened.",
    "", "## Licence", "",
    f"Weights: {_plain(licence)}.",
    *([f"Holds networks of others, whose licences apply: {', '.join(borrowed)}."]
      if borrowed else []),
    "", "## Samples", "", shown or "None.", "",
  ]  # fmt: skip
  return "\n".join(lines)


def _check_out(out: pathlib.Path) -> None:
  if out.exists() and not exported.holds(out) and (
    not out.is_dir() or any(out.iterdir())
  ):  # fmt: skip
    raise ConfigError(f"--out={out}: holds something else; name a new folder")


def export(
  run: str, out: pathlib.Path, licence: str, lora: Sequence[adapters.Adapter] = ()
) -> list[str]:
  """Writes the folder, whole or not at all; returns the names of its weight files.

  The files of `lora` are merged into the weights.

  Raises:
    ConfigError: no run there, or `out` is taken. WeightsError: as `loading.gather`.
  """
  out = pathlib.Path(out).expanduser()
  _check_out(out)
  workdir = loading.locate(run)
  config = run_folder.read(workdir)
  if config is None:
    raise ConfigError(f"--workdir={run}: holds no run (no config.json)")
  partial = out.with_name(f".{out.name}.part")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  try:
    names = _fill(partial, config, workdir, licence, lora)
    if out.exists():
      shutil.rmtree(out)
    os.rename(partial, out)
  except OSError as error:
    raise WeightsError(f"--out={out}: cannot be written ({error.strerror})") from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return names


def _fill(
  folder: pathlib.Path, config: ConfigDict, workdir: epath.Path, licence: str,
  lora: Sequence[adapters.Adapter],
) -> list[str]:  # fmt: skip
  names: list[str] = []
  _, weights = loading.gather(config, workdir, "ema", lora)
  names += exported.write_weights(folder, "ema", weights)
  if _averaged(workdir, tuple(weights)):
    _, raw = loading.gather(config, workdir, "raw", lora)
    names += exported.write_weights(folder, "raw", raw)
  moved = _config(config, workdir, folder)
  (folder / "config.json").write_text(json.dumps(moved.to_dict(), indent=2) + "\n")
  fps = float(pipeline.fps(config.data))
  record = {
    "format": exported.FORMAT,
    "lamd_jax": metadata.version("lamd_jax"),
    "clip": {"frames": config.data.frames, "size": config.data.size, "fps": fps,
             "dtype": "uint8", "range": [0, 255], "resize": config.data.resize},
    "files": {name: exported.sha256(folder / name) for name in names},
    "empty": exported.empty_nodes(weights),
    "lora": [{**r, "file": pathlib.Path(r["file"]).name} for r in adapters.record(lora)],
  }  # fmt: skip
  (folder / exported.FACTS).write_text(json.dumps(record, indent=2) + "\n")
  plain = pathlib.Path(workdir)
  for path in (plain / "eval").glob("*.json"):
    (folder / "eval").mkdir(exist_ok=True)
    shutil.copyfile(path, folder / "eval" / path.name)
  borrowed = [] if exported.holds(plain) else list(imported.names(config))
  samples = _samples(plain, folder)
  text = card(config, fps, run_scores.read(plain), samples, borrowed, licence)
  (folder / "README.md").write_text(text, "utf-8")
  return names


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", required=True, metavar="RUN")
  parser.add_argument("--out", required=True, type=paths.path, metavar="DIR")
  parser.add_argument(
    "--licence", default="unknown", help="of the weights, for the card; yours to say"
  )
  parser.add_argument(
    "--merge", default="", metavar="LORA[,LORA]", help="LoRA files, merged in"
  )
  parser.add_argument(
    "--lora_weight", default="1", metavar="W[,W]", help="of all of them, or of each"
  )
  parser.add_argument(
    "--push", default="", metavar="OWNER/NAME", help="upload it to the Hub"
  )
  parser.add_argument(
    "--public", action="store_true", help="a repository that --push makes; else private"
  )
  options = parser.parse_args(arguments)

  def command() -> None:
    lora = adapters.asked(options.merge, adapters.numbers(options.lora_weight))
    names = export(options.workdir, options.out, options.licence, lora)
    for name in names:
      size = (options.out / name).stat().st_size
      print(f"{size / 1e6:10.1f} MB  {options.out / name}")
    print(f'read it with lamd_jax.load("{options.out}"); the card is README.md')
    if options.push:
      print(hub.push(options.out, options.push, private=not options.public))

  return errors.exit_code(command)


if __name__ == "__main__":
  sys.exit(main())
