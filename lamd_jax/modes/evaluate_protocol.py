# SPDX-License-Identifier: Apache-2.0
"""--mode=evaluate --eval.protocol=NAME: a run's clips under a named protocol.

Clips are made, by all processes, written to WORKDIR/eval/NAME-TASK/{reals,fakes} as npz
files, and scored by what tools.score is made of, so that both give the same number for
the same clips.

  generation      as many clips as the protocol asks for, else --eval.clips
  reconstruction  held-out clips through the autoencoder, with PSNR and SSIM
  long            segment k of all long videos against ordinary real clips
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import functools
import pathlib
from typing import Any

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import api
from lamd_jax import config as config_lib
from lamd_jax import line_plot
from lamd_jax import media
from lamd_jax import sample_checks
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.evaluation import scoring
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.modes import protocol_clips
from lamd_jax.modes.protocol_clips import Reals
from lamd_jax.tools import score
from lamd_jax.tools import score_inputs
from lamd_jax.tools import score_page
from lamd_jax.tools import score_run
from lamd_jax.training import distributed
from lamd_jax.training.console import Console

_BLOCK = protocol_clips.BLOCK  # clips a call of the model
# Extractor -> the key of --eval.* that names its file.
_WEIGHTS = {
  "i3d_kinetics400": "weights_i3d", "c3d_ucf101": "weights_c3d",
  "pairs_lpips": "weights_lpips", "clip_b32": "weights_clip_image",
  "clip_l14": "weights_clip_image", "clip_h14": "weights_clip_image",
}  # fmt: skip
_OF_PAIRS = ("pairs", "pairs_lpips")
_OF_SETS = ("i3d_kinetics400", "random_i3d", "random_small")
# Of --eval.*, what calls of the model take as it is; of edits, more.
_KNOBS = ("sampler", "steps", "spacing", "eta", "guidance", "batch")
_OF_EDITS = ("temporal_guidance", "structure_level")


def check(evaluation: ConfigDict, config: ConfigDict) -> Protocol:
  """Returns the protocol that is asked for.

  Raises:
    ConfigError: it does not exist, or does not fit the run or the task.
  """
  preset = protocol_lib.find(evaluation.protocol, "--eval.protocol")
  texts = [text for text in evaluation.changes.split(",") if text]
  protocol = preset.changed(score.changes(texts, preset))
  flag, task = f"--eval.protocol={protocol.name}", evaluation.task
  if protocol.extractor in protocol_lib.FROM_FILE:
    raise ConfigError(f"{flag}: its features come from a file; use tools.score")
  if (protocol.extractor in _OF_PAIRS) != (task == "reconstruction") and (
    protocol.extractor not in _OF_SETS
  ):
    raise ConfigError(f"{flag}: --eval.task={task} has no such score; pairs and"
                      " pairs_lpips are for reconstruction")  # fmt: skip
  if task == "long" and protocol.extractor not in _OF_SETS:
    raise ConfigError(f"{flag}: --eval.task=long scores segments by FVD's machinery")
  if task == "long" and evaluation.frames < 2 * protocol.frames:
    raise ConfigError(
      f"--eval.frames={evaluation.frames}: the task long takes {2 * protocol.frames}"
      " frames or more"
    )
  if task == "long":
    _check_long(evaluation, config)
  if task == "reconstruction" and protocol.fake_stride != 1:
    raise ConfigError(f"{flag}: strides over made frames; take --eval.task=generation")
  if protocol.true_first and task == "generation" and config.system != "lamd":
    raise ConfigError(
      f"{flag}: its clips go on from a true first frame, which {config.system} is not"
      " given; it is for lamd"
    )
  if config.system == "lamd" and protocol.frames != config.data.frames:
    raise ConfigError(
      f"{flag}: takes {protocol.frames} frames, this run makes {config.data.frames}; say"
      f" --eval.changes=frames={config.data.frames}, which renames its scores"
    )
  if protocol.pixels not in (0, config.data.size):
    raise ConfigError(
      f"{flag}: takes {protocol.pixels}x{protocol.pixels} pixels, this run has"
      f" {config.data.size}; say --eval.changes=pixels=0, which renames its scores"
    )
  if protocol.extractor.startswith("captions") and (
    (config.data.source, config.data.world_mode) != ("procedural", "v1")
  ):
    raise ConfigError(f"{flag}: clips are described by a tracker that knows the world"
                      " cater v1 alone; use tools.score with a captioner")  # fmt: skip
  return protocol


def _check_long(evaluation: ConfigDict, config: ConfigDict) -> None:
  sample = config_lib.sample_defaults()
  sample.update({k: evaluation[k] for k in ("long", "frames", *_KNOBS)})
  try:
    sample_checks.check_sample(sample, config)
    sample_checks.stages_of(sample, config)
  except ConfigError as error:
    raise ConfigError(str(error).replace("--sample.", "--eval.")) from error


def _check_weights(protocol: Protocol, evaluation: ConfigDict) -> None:
  """Raises WeightsError before anything is made for which weights are missing."""
  key = _WEIGHTS.get(protocol.extractor, "")
  if not key:
    return
  if protocol.extractor in score_run.LOADERS:
    score_run.load_weights(protocol, evaluation[key])
  elif not pathlib.Path(evaluation[key]).expanduser().is_file():
    part = "lpips" if key == "weights_lpips" else "clip-image"
    raise WeightsError(
      f"--eval.{key}={evaluation[key]}: no such file; python -m lamd_jax.tools.convert"
      f" {part} makes it of published weights"
    )


def _made(
  model: api.Model, evaluation: ConfigDict, protocol: Protocol, reals: Reals, count: int,
  block: int, clips: range,
) -> np.ndarray:  # fmt: skip
  """Generates some of `count` clips; block b has the seed `seed` + b.

  Texts, first frames and classes are those of real clips, in turn. Edits are one
  block: clip i has the structure and the caption of held-out clip i.
  """
  animates = model.system.animates_images
  factor = sample_checks.time_factor(model.config)
  span = protocol_clips.span(protocol.frames, protocol.fake_stride)
  frames = -(-span // factor) * factor
  edits = _OF_EDITS if model.config.system == "gen1" else ()
  rows = reals.turn(protocol, count)[clips.start : clips.stop]
  known = reals.labels is not None and model.config.model.motion.num_classes
  classes = animates and known  # a model without takes none, whatever the data say
  made = model.generate(
    len(rows),
    text=[reals.texts[i] for i in rows] if reals.texts else "",
    image=[reals.clips.read(i, 0, 1, 1)[0] for i in rows] if animates else None,
    label=[int(reals.labels[i]) for i in rows] if classes else -1,
    replace_first_frame=protocol.true_first,
    frames=0 if animates else frames,
    seed=evaluation.seed + block,
    **{k: evaluation[k] for k in (*_KNOBS, *edits)},
  )
  return np.stack([clip.frames for clip in made])


def _options(
  protocol: Protocol, evaluation: ConfigDict, folder: pathlib.Path, captions: str
) -> argparse.Namespace:
  """What tools.score would have read from its flags."""
  clip = protocol.extractor.startswith("clip_") and bool(captions)
  text = evaluation.weights_clip_text if clip else ""
  key = _WEIGHTS.get(protocol.extractor, "")
  names_texts = bool(text) or protocol.extractor.startswith("captions")
  return argparse.Namespace(
    real=str(folder / "reals"),
    fake=str(folder / "fakes"),
    weights=evaluation[key] if key else "",
    text_weights=text,
    vocabulary=evaluation.vocabulary if text else "",
    captions=captions if names_texts else "",
    made_by=(
      f"{evaluation.weights} weights, {evaluation.sampler}, {evaluation.steps} steps,"
      f" guidance {evaluation.guidance or 'as the run'}, seed {evaluation.seed}"
    ),
    batch=evaluation.batch,
    resamples=evaluation.bootstrap,
    seed=evaluation.seed,
    cache="",
    paired=evaluation.task == "reconstruction",
  )


def _rebuilt(
  model: api.Model, protocol: Protocol, reals: Reals, block: int, clips: range
) -> np.ndarray:
  """Some of the real clips after the autoencoder."""
  del block
  read = lambda i: reals.clips.read(i, 0, protocol.frames, protocol.stride)
  return model.reconstruct(np.stack([read(i) for i in clips]))


def _clips(
  model: api.Model, config: ConfigDict, evaluation: ConfigDict, protocol: Protocol,
  folder: pathlib.Path,
) -> tuple[Reals, list[str]]:  # fmt: skip
  """Writes real and made clips; returns the real ones, and the captions of the made."""
  fakes = protocol.fakes or evaluation.clips
  # For the floor, other real clips than those that are scored against.
  floor = protocol.extractor in _OF_SETS
  reals = protocol_clips.to_score_against(
    config, protocol, fakes, floor, folder / "reals"
  )
  if evaluation.task == "long":
    return reals, []
  size, told = _BLOCK, reals
  if evaluation.task == "reconstruction":
    fakes = min(fakes, len(reals.clips.names))
    make = functools.partial(_rebuilt, model, protocol, reals)
  else:
    told = protocol_clips.to_tell(config, protocol, fakes, reals, folder / "told")
    make = functools.partial(_made, model, evaluation, protocol, told, fakes)
    size = fakes if config.system == "gen1" else _BLOCK
    reals.record["told"] = told.record["split"]
  protocol_clips.made(folder / "fakes", fakes, size, make)
  texts = [told.texts[i] for i in told.turn(protocol, fakes)] if told.texts else []
  return reals, texts


def _name_floor(found: dict[str, Any], reals: Reals) -> None:
  """A floor of second clips of the same videos must not be called one of others."""
  old, new = "floor: other real videos", "floor: other draws of the same videos"
  if old in found["scores"] and len(reals.clips.names) > reals.record["videos"]:
    for part in ("scores", "growth"):
      found[part] = {new if k == old else k: v for k, v in found[part].items()}


def _write_captions(path: pathlib.Path, texts: Sequence[str]) -> None:
  """One a line: whatever ends a line, in a caption it is a blank."""
  path.write_text("".join(" ".join(t.splitlines()) + "\n" for t in texts), "utf-8")


def report(
  model: api.Model, config: ConfigDict, workdir: epath.Path, evaluation: ConfigDict
) -> dict[str, Any] | None:
  """Makes clips, scores them, and writes WORKDIR/eval/NAME-TASK.{json,html}.

  Every process calls it; the first one scores, and the others get None.
  """
  protocol = check(evaluation, config)
  distributed.together(lambda: _check_weights(protocol, evaluation), first=True)
  folder = pathlib.Path(workdir) / f"eval/{evaluation.protocol}-{evaluation.task}"
  reals, texts = _clips(model, config, evaluation, protocol, folder)
  score_them = lambda: _scored(model, evaluation, protocol, folder, reals, texts)
  return distributed.together(score_them, first=True)


def _scored(
  model: api.Model, evaluation: ConfigDict, protocol: Protocol, folder: pathlib.Path,
  reals: Reals, texts: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
  captions = folder / "captions.txt"
  _write_captions(captions, texts)
  options = _options(protocol, evaluation, folder, str(captions) if texts else "")
  if evaluation.task == "long":
    found = _long(model, evaluation, protocol, options, folder)
  else:
    found = score.report(protocol, options)
    _name_floor(found, reals)
  found |= {"task": evaluation.task, "reals_from": reals.record}
  for line in score_page.lines(found):
    print(line)
  if reals.record["trained_stride"] != protocol.stride:
    print(f"note: real clips have stride {protocol.stride}, the run was trained on"
          f" stride {reals.record['trained_stride']}")  # fmt: skip
  score.write(found, folder.with_name(f"{folder.name}.json"))
  return found


def _long(
  model: api.Model, evaluation: ConfigDict, protocol: Protocol,
  options: argparse.Namespace, folder: pathlib.Path,
) -> dict[str, Any]:  # fmt: skip
  """Scores segment k of all videos, for every k; writes segments.csv beside."""
  videos, length = evaluation.clips, protocol.frames
  if protocol.fakes not in (0, videos):
    protocol = protocol.changed({"fakes": videos})
  run = score_run.Run(protocol, options)
  source = clip_sources.open_source(options.real)
  picked = score_run.pick_reals(protocol, source, options.real, options.seed)
  base = run("reals", source, picked.where, protocol.stride).features
  if picked.how == score_run.HALVES:
    half = len(base) // 2
    floor = (base[:half], base[half : 2 * half])
  else:
    floor = (base, run("floor", source, picked.other, protocol.stride).features)
  console, rows = Console("evaluate: long videos", videos), []
  made = model.long_videos(
    videos, long=evaluation.long, frames=evaluation.frames, seed=evaluation.seed,
    **{k: evaluation[k] for k in _KNOBS if k != "batch"},
  )  # fmt: skip
  for frames in made:
    whole = frames[: len(frames) // length * length]
    cut = whole.reshape(-1, length, *frames.shape[1:])
    rows.append(np.concatenate(list(run.extract(cut))))
    console.advance(len(rows))
  console.line()
  segments = np.stack(rows)  # [V,S,D]
  compare = lambda metric, *pair: scoring.compare(
    protocol, metric, *pair, resamples=options.resamples, seed=options.seed
  ).record()
  found = score_inputs.head(protocol, options, run.weights)
  scores = {
    f"segment {k}, frames {k * length} to {(k + 1) * length - 1}": [
      compare(metric, base, segments[:, k]) for metric in scoring.METRICS
    ]
    for k in range(segments.shape[1])
  }
  _write_segments(folder, protocol, list(scores.values()))
  # As many other real clips as there are videos: small sets score higher by themselves.
  a, b = floor[0], floor[1][:videos]
  rows = {f"floor: {picked.how}": b}
  for name, change in scoring.BASELINES.items():
    places = picked.other[:videos]
    rows[f"baseline: {name}"] = run(
      name, source, places, protocol.stride, change
    ).features
  found["scores"] = scores | {
    name: [compare(metric, a, row) for metric in scoring.METRICS]
    for name, row in rows.items()
  }
  return found


def _write_segments(
  folder: pathlib.Path, protocol: Protocol, segments: list[list[dict[str, Any]]]
) -> None:
  lines = ["frame,score,value,low,high,protocol,hash,clips"]
  curves: dict[str, list[tuple[float, float]]] = {}
  for k, records in enumerate(segments):
    for r in records:
      low, high = r["interval_95"] or ("", "")
      cells = (k * protocol.frames, r["title"], r["value"], low, high, protocol.name,
               protocol.hash(), r["fakes"])  # fmt: skip
      lines.append(",".join(f'"{c}"' if "," in str(c) else str(c) for c in cells))
    first = records[0]
    curves.setdefault(first["title"], []).append((k * protocol.frames, first["value"]))
  text = "\n".join(lines) + "\n"
  plot = line_plot.svg(
    f"{protocol.name} {protocol.hash()} along the video", "first frame of the segment",
    "distance", curves,
  )  # fmt: skip
  media.write_text(folder / "segments.csv", text)
  media.write_text(folder / "segments.svg", plot)
