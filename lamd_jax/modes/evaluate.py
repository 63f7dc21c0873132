# SPDX-License-Identifier: Apache-2.0
"""--mode=evaluate: scores a trained run and writes its gallery."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import api
from lamd_jax import gallery
from lamd_jax import learning_curves
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.evaluation import caption_following
from lamd_jax.evaluation import cater_tracker
from lamd_jax.evaluation import clip_report
from lamd_jax.evaluation import features
from lamd_jax.evaluation import motion
from lamd_jax.evaluation import tracked_precision
from lamd_jax.modes import evaluate_edits
from lamd_jax.modes import evaluate_protocol
from lamd_jax.training import compile_cache
from lamd_jax.training import distributed

_Tracks = dict[str, list[tuple[cater_tracker.Track, cater_tracker.Track]]]

_FEWEST = 8  # clips of a kind, as --eval.clips
_SHOWN = 12  # clips of each kind in the gallery
_GALLERY = {
  "real": "held-out clips of the data",
  "reconstructed": "the same after encoding and decoding",
  "generated": "what the diffusion model makes",
  "motion of the next clip": "the first frame of a clip, moved as the next clip is",
  "repeated first frame": "a baseline that stands still",
  "decoded random latents": "a baseline that has learnt nothing of motion",
}
# Clips that ought to begin with the reference's first frames.
_KEEPERS = ("reconstructed", "generated", "motion of the next clip")
_SMALLEST_TRACKED = 48  # pixels; the tracker sees nothing in smaller frames


class TooFewClips(DataError):
  """Clips that are held out, but too few for scores."""


def _clips(
  model: api.Model, config: ConfigDict, evaluation: ConfigDict
) -> dict[str, np.ndarray]:
  """Real, rebuilt, generated and baseline clips, each [N,T,H,W,3] uint8."""
  n = evaluation.clips
  real = pipeline.clips(config.data, config.data.eval_split, 2 * n, config.seed)
  if len(real) < 2 * _FEWEST:
    raise TooFewClips(
      f"{len(real)} clips of the split {config.data.eval_split}: scores need at least"
      f" {2 * _FEWEST}, half of them for the floor; hold more out, or look at"
      " --mode=sample"
    )
  # The reference and the floor must not share clips.
  reference, other = real[::2], real[1::2]
  # A system that animates starts from the reference's first frames, as its baseline does.
  images = reference[:, :1] if model.system.animates_images else None
  labels = None
  if images is not None and config.model.motion.num_classes:
    labels = pipeline.labels(config.data, config.data.eval_split, 2 * n, config.seed)
  made = model.generate(
    len(reference),
    text=_texts(config, evaluation) or "",
    image=None if images is None else list(images[:, 0]),
    label=-1 if labels is None else [int(x) for x in labels[::2]],
    sampler=evaluation.sampler,
    steps=evaluation.steps,
    spacing=evaluation.spacing,
    eta=evaluation.eta,
    guidance=evaluation.guidance,
    seed=evaluation.seed,
    batch=evaluation.batch,
  )
  transferred = {}
  if images is not None:
    donors = np.roll(reference, -1, axis=0)
    transferred["motion of the next clip"] = model.transfer(donors, images)
  return {
    "real": reference,
    **transferred,
    "other real clips": other,
    "reconstructed": model.reconstruct(reference),
    "generated": np.stack([clip.frames for clip in made]),
    "repeated first frame": clip_report.repeat_first_frame(reference),
    "decoded random latents": model.random_latents(
      len(reference), evaluation.seed, images
    ),
  }


def _texts(config: ConfigDict, evaluation: ConfigDict) -> list[str]:
  """The captions of the reference clips; none of a run without text."""
  if config.data.tokenizer == "none":
    return []
  count = 2 * evaluation.clips
  return pipeline.captions(config.data, config.data.eval_split, count, config.seed)[::2]


def _tracks(config: ConfigDict, clips: dict[str, np.ndarray]) -> _Tracks:
  """What a tracker that knows the world sees in true and in made clips; {} elsewhere."""
  data = config.data
  if data.source != "procedural" or (data.world, data.world_mode) != ("cater", "v1"):
    return {}
  if data.tokenizer == "none" or data.size < _SMALLEST_TRACKED:
    return {}
  named = ("real", "reconstructed", "generated", "repeated first frame")
  return {name: caption_following.track(clips[name]) for name in named}


def _caption_following(
  config: ConfigDict, evaluation: ConfigDict, seen: _Tracks
) -> dict[str, Any]:
  """Scores of tracked clips against their captions and against others'."""
  if not seen:
    return {}
  texts = _texts(config, evaluation)[: len(seen["real"])]
  order = caption_following.derangement(np.random.default_rng(config.seed), len(texts))
  resamples, seed = evaluation.bootstrap, config.seed
  found = {}
  for name, tracks in seen.items():
    found[name] = {
      **caption_following.compare_tracks(tracks, texts, seed, resamples),
      "precision": tracked_precision.compare(tracks, texts, order, resamples, seed),
    }
  return found


def _format(score: dict[str, Any], part: str) -> str:
  low, high = score["interval"][part]
  return f"{score[part]:.2f} [{low:.2f}, {high:.2f}]"


def _cell(score: dict[str, Any], digits: int = 3) -> str:
  if score["mean"] is None:
    return "none"
  low, high = (f"{value:.{digits}f}" for value in score["interval"])
  return f"{score['mean']:.{digits}f} [{low}, {high}]"


def _caption_table(following: dict[str, Any]) -> gallery.Table:
  rows = []
  for name, scores in following.items():
    for which in ("matched", "shuffled"):
      parts = [scores[which][p] for p in ("combined", "action", "cell")]
      words = scores["precision"]["mage"][which]
      parts += [words["action"], words["referring"]]
      rows.append((f"{name}, {which}", *map(_cell, parts)))
  clips = following["generated"]["clips"]
  return gallery.Table(
    "Caption following",
    "Do the objects do what the caption says? 1 is all of it. Objects are tracked in"
    f" {clips} clips, with 95 % bootstrap intervals. Matched: against the clip's own"
    " caption; real clips show the best that can be reached. Shuffled: against the"
    " caption of another clip, as a model scores that ignores captions. The last two"
    " columns are MAGE's precisions, with the tracker for a captioner.",
    ("", "combined", "right action", "right place", "action precision",
     "referring precision"),
    rows,
  )  # fmt: skip


def _first_frames(
  config: ConfigDict, evaluation: ConfigDict, clips: dict[str, np.ndarray]
) -> dict[str, Any]:
  """Scores of the first frames of clips that an image was given to."""
  kept, images = {name: clips[name] for name in _KEEPERS}, clips["real"][:, :1]
  return clip_report.first_frames(images, kept, evaluation.bootstrap, config.seed)


def _first_frame_table(first: dict[str, Any]) -> gallery.Table:
  return gallery.Table(
    "First frame",
    "How well clips keep the image they start from, with 95 % bootstrap intervals;"
    " higher is better. The last row is what any other image of the data scores.",
    ("", "PSNR, dB", "SSIM"),
    [(name, _cell(x["psnr"], 2), _cell(x["ssim"])) for name, x in first.items()],
  )


def _tables(report: dict[str, Any]) -> list[gallery.Table]:
  rebuilt, made = report["reconstruction"], report["generation"]
  following = report.get("caption_following")
  return [
    *([_caption_table(following)] if following else []),
    *([_first_frame_table(report["first_frame"])] if "first_frame" in report else []),
    gallery.Table(
      "Reconstruction",
      f"PSNR of {rebuilt['clips']} held-out clips after encoding and decoding, mean over"
      " clips; higher is better. The second row, clips that stand still, is the one to"
      " beat.",
      ("", "PSNR, dB"),
      [
        ("autoencoder", f"{rebuilt['psnr']:.2f}"),
        ("repeated first frame", f"{rebuilt['psnr_repeated_first_frame']:.2f}"),
      ],
    ),
    gallery.Table(
      "Generation",
      f"How far each set of clips is from {rebuilt['clips']} held-out real ones: squared"
      " Frechet distance of simple clip features (colour, spatial spectrum, frame"
      f" difference; protocol {report['protocol_hash']}, not FVD), with 95 % bootstrap"
      " intervals; lower is better. The first row is as low as real clips get; the last"
      " two are baselines that a useful model beats. Generated with"
      f" {report['weights']} weights, {report['sampler']}, {report['steps']} steps.",
      ("", "distance", "part of the mean", "part of the covariance"),
      [
        (name, *(_format(score, part) for part in ("total", "mean", "covariance")))
        for name, score in made.items()
      ],
    ),
  ]


def _columns(
  clips: dict[str, np.ndarray], seen: _Tracks, texts: list[str], animated: bool
) -> list[gallery.Column]:
  """The first clips of each kind with what can be said of each by itself.

  Args:
    clips: of `_clips`.
    seen: of `_tracks`, with `texts` the captions of the clips.
    animated: whether clips were made from the reference's first frames.
  """
  first = {name: clips[name][:_SHOWN] for name in _GALLERY if name in clips}
  scores: dict[str, dict[str, Any]] = {name: {} for name in first}
  for name, tracks in seen.items():
    following = caption_following.score_tracks(tracks[:_SHOWN], texts[:_SHOWN])
    scores[name]["caption following, 0 to 1"] = following.combined
  rebuilt = features.psnr(first["real"], first["reconstructed"])
  scores["reconstructed"]["PSNR against the real clip, dB"] = rebuilt
  kept = [name for name in _KEEPERS if name in first]
  for name in kept if animated else ():
    found = features.psnr(first["real"][:, :1], first[name][:, :1])
    scores[name]["PSNR of the first frame, dB"] = found
  for name in ("real", *kept):
    moves = [motion.statistics(clip).difference for clip in first[name]]
    scores[name]["frame difference, grey levels"] = moves
  return [gallery.Column(name, first[name], scores[name]) for name in first]


def _about(clips: dict[str, np.ndarray]) -> str:
  """What the columns of the gallery are, for its top."""
  kinds = "; ".join(f"{kind}: {what}" for kind, what in _GALLERY.items() if kind in clips)
  return (
    f"{kinds[0].upper()}{kinds[1:]}. Numbers under a clip are its own; the tables below"
    f" are about all {len(clips['real'])} clips of a kind."
  )


def report(
  config: ConfigDict, workdir: epath.Path, evaluation: ConfigDict
) -> dict[str, Any]:
  """Scores the run, writes eval/report.json and gallery/index.html."""
  if config.system == "gen1":
    return evaluate_edits.report(config, workdir, evaluation)
  started = time.monotonic()
  model = api.from_workdir(config, workdir, evaluation.weights)
  clips = _clips(model, config, evaluation)
  candidates = {k: v for k, v in clips.items() if k not in ("real", "reconstructed")}
  order = ("other real clips", "generated", "repeated first frame",
           "decoded random latents")  # fmt: skip
  result = {
    "protocol": clip_report.PROTOCOL,
    "protocol_hash": clip_report.protocol_hash(),
    "config_hash": run_folder.config_hash(config),
    "weights": evaluation.weights,
    "sampler": evaluation.sampler,
    "steps": evaluation.steps,
    "seed": evaluation.seed,
    "reconstruction": clip_report.reconstruction(clips["real"], clips["reconstructed"]),
    "generation": clip_report.generation(
      clips["real"], {k: candidates[k] for k in order}, evaluation.bootstrap, config.seed
    ),
  }
  seen = _tracks(config, clips)
  following = _caption_following(config, evaluation, seen)
  if following:
    result["caption_following"] = following
  if model.system.animates_images:
    result["first_frame"] = _first_frames(config, evaluation, clips)
  file = pathlib.Path(workdir) / "eval/report.json"
  media.write_text(file, json.dumps(result, indent=2) + "\n")
  texts = _texts(config, evaluation)
  tables = _tables(result)
  page = gallery.write(
    pathlib.Path(workdir) / "gallery",
    f"{config.name}, {config.variant}",
    _columns(clips, seen, texts, model.system.animates_images),
    tables,
    {
      "config": f"configs/{config.name}.py:{config.variant}",
      "config hash": result["config_hash"],
      "clip": f"{config.data.frames} frames of {config.data.size} x {config.data.size}",
      "data": config.data.root or f"procedural {config.data.world}",
    },
    model.fps,
    texts[:_SHOWN],
    learning_curves.html({config.name: pathlib.Path(workdir)}, config.stages),
    _about(clips),
  )
  for table in tables:
    print(f"\n{table.title}")
    for row in (table.header, *table.rows):
      print("  " + "".join(f"{cell:<32}" for cell in row).rstrip())
  print(f"\nscores   {file}\ngallery  {page}")
  print(f"scored in {time.monotonic() - started:.0f} s", flush=True)
  return result


def run(config: ConfigDict, workdir: epath.Path, evaluation: ConfigDict) -> int:
  """Returns the exit code."""
  if "://" in str(workdir):
    raise ConfigError(
      f"--workdir={workdir}: scores are written to a folder; copy the run to a disk, and"
      " name that"
    )
  compile_cache.enable()
  if not evaluation.protocol:
    return distributed.by_first(lambda: report(config, workdir, evaluation) and 0)
  evaluate_protocol.check(evaluation, config)  # before weights are read
  read = lambda: api.from_workdir(config, workdir, evaluation.weights)
  model = distributed.together(read)
  evaluate_protocol.report(model, config, workdir, evaluation)
  return 0
