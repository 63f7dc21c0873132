# SPDX-License-Identifier: Apache-2.0
"""--mode=sample: generates clips from a trained run and writes them to files."""

from __future__ import annotations

from collections.abc import Sequence
import json
import pathlib
import time

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
from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import caption_files
from lamd_jax.modes import edit
from lamd_jax.modes import sample_folder
from lamd_jax.modes import stream
from lamd_jax.training import compile_cache
from lamd_jax.training import preemption

_LARGEST_SIDE = 4096  # pixels of grid.mp4; H.264 ends at 16384
# Of --sample.*, what stands in the folder's name, and what changes no frame.
_NAMED = ("sampler", "steps", "seed", "lora_weight")
_NOT_OF_FRAMES = ("n", "batch", "decode_chunk", "formats", "strip", "out")


def write_clips(
  folder: pathlib.Path, clips: list[api.Clip], formats: tuple[str, ...]
) -> None:
  """Writes each clip in each format, and all as one sheet."""
  for i, clip in enumerate(clips):
    if "mp4" in formats:
      media.write_mp4(folder / f"{i:03d}.mp4", clip.frames, clip.fps)
    if "gif" in formats:
      media.write_gif(folder / f"{i:03d}.gif", clip.frames, clip.fps)
    if "png" in formats:
      for t, frame in enumerate(clip.frames):
        media.write_png(folder / f"{i:03d}" / f"{t:05d}.png", frame)
  stacked = np.stack([clip.frames for clip in clips])
  if "npz" in formats:
    media.write_npz(folder / "samples.npz", stacked)
  if "mp4" in formats:
    across = max(1, _LARGEST_SIDE // (1 + max(stacked.shape[2:4])))
    tiled = media.grid(stacked[: across**2])
    media.write_mp4(folder / "grid.mp4", tiled, clips[0].fps)
  media.write_png(folder / "sheet.png", media.filmstrip(stacked[:16]))


def _texts(text: str) -> list[str]:
  """One prompt, or those of a .txt file, one a line."""
  if not text.endswith(".txt"):
    return [text]
  try:
    lines = caption_files.lines(pathlib.Path(text).expanduser().read_text("utf-8-sig"))
  except (OSError, ValueError) as error:
    raise ConfigError(f"--sample.text={text}: cannot be read ({error})") from error
  if not (prompts := [line for line in lines if line]):
    raise ConfigError(f"--sample.text={text}: holds no prompt")
  return prompts


def _folder(
  sample: ConfigDict, workdir: epath.Path, texts: Sequence[str]
) -> pathlib.Path:
  """The folder of what is asked for: another wish is another folder."""
  if not sample.out and "://" in str(workdir):
    raise ConfigError(
      f"--workdir={workdir}: clips are written to a folder; name one with --sample.out"
    )
  name = f"{sample.sampler}-{sample.steps}-seed{sample.seed}"
  if lora := adapters.asked(sample.lora, sample.lora_weight):
    name += "-lora" + ",".join(f"{weight:g}" for _, weight in lora)
  if sample.long != "none":  # whose journal knows the rest
    name = f"{sample.long}-{name}"
  else:
    usual = {**config_lib.sample_defaults(sample.sampler), "text": [""]}
    asked = {**sample, "text": list(texts)}
    left = (*_NAMED, *_NOT_OF_FRAMES)
    wish = {k: v for k, v in asked.items() if k not in left and v != usual[k]}
    name += f"-{edit.digest(wish)}" if wish else ""
  return pathlib.Path(sample.out or workdir / "samples" / name)


def _long_videos(
  model: api.Model, config: ConfigDict, workdir: epath.Path, sample: ConfigDict,
  folder: pathlib.Path,
) -> int:  # fmt: skip
  """Makes `sample.n` videos, each in a folder that it can be continued in."""
  stop = preemption.Stop().install()
  knobs = {k: v for k, v in sample.items() if k not in edit.NO_KNOBS}
  # A folder of a thousand pictures is for who asks for it.
  formats = sample_checks.formats(sample, ("mp4",))
  for number in range(sample.n):
    settings = {**knobs, "number": number, "weights": sample.weights}
    if sample.lora:
      settings["lora"] = adapters.record(
        adapters.asked(sample.lora, sample.lora_weight)
      )
    video = folder / f"{number:03d}"
    settings |= sample_folder.weights_of(video, workdir, sample, config)
    try:
      path = stream.run(
        model.long_video(number, **knobs),
        video,
        sample.fps or model.fps,
        settings,
        formats,
        stop,
      )
    except preemption.Preempted:
      return preemption.EXIT_CODE
    print(f"video {path}, page {path.with_name('index.html')}", flush=True)
  return 0


def run(config: ConfigDict, workdir: epath.Path, sample: ConfigDict) -> int:
  """Samples as `--sample.*` says; returns the exit code."""
  compile_cache.enable()
  texts = _texts(sample.text)
  if len(texts) > sample.n and not sample.video:
    raise ConfigError(
      f"--sample.n={sample.n}: --sample.text={sample.text} holds {len(texts)} prompts;"
      f" say --sample.n={len(texts)}"
    )
  folder = _folder(sample, workdir, texts)
  formats = sample_checks.formats(sample, sample_checks.FORMATS)
  if not sample.video:  # an edit's folder has another name
    sample_folder.check(folder)
    if sample.long == "none":
      sample_folder.check_free(folder, sample.n, formats)
  lora = adapters.asked(sample.lora, sample.lora_weight)
  model = api.from_workdir(config, workdir, sample.weights, lora)
  if sample.video:
    return edit.run(model, config, workdir, sample, texts)
  if sample.long != "none":
    return _long_videos(model, config, workdir, sample, folder)
  knobs = {k: v for k, v in sample.items() if k not in edit.NO_KNOBS}
  knobs["text"] = texts
  knobs |= {"image": sample.image or None, "motion_from": sample.motion_from or None}
  started = time.monotonic()
  show = lambda done, total: print(f"\rsampled {done}/{total} clips", end="", flush=True)
  clips = model.generate(sample.n, progress=show, **{**knobs, "strip": 0})
  seconds = time.monotonic() - started
  print(f" in {seconds:.1f} s, compilation included", flush=True)
  if (before := sample_folder.remove_old(folder)) > sample.n:
    print(f"they replace {before} clips that an earlier command left in {folder}")
  # First what will be there, so that whoever is broken off can begin again.
  record = {
    "sample": {**sample.to_dict(), "formats": formats},
    "lora": adapters.record(lora),
    "config_hash": run_folder.config_hash(config),
    "run": str(workdir),
    "frames": list(clips[0].frames.shape),
    "fps": clips[0].fps,
    "texts": [texts[i % len(texts)] for i in range(sample.n)],
  }
  text = json.dumps(record, indent=2) + "\n"
  media.write_text(folder / sample_folder.RECORD, text)
  write_clips(folder, clips, formats)
  if sample.strip:
    del knobs["motion_from"]
    states = model.denoising_strip(**{**knobs, "text": texts[0]})
    media.write_png(folder / "strip.png", media.filmstrip(states))
  if config.system == "gen1":
    columns = editing.columns(model, clips)
    title = f"{config.name}: held-out clips, edited"
    print(f"page {gallery.write(folder, title, columns, [], sample, clips[0].fps, [])}")
  print(f"clips, sheet.png and samples.json are in {folder}")
  return 0
