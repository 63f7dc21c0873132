# SPDX-License-Identifier: Apache-2.0
"""Scores a trained Gen-1: does it keep structure, does it follow content?

The curves are the paper's (arXiv 2302.03011): frame consistency against temporal
guidance, prompt consistency and fidelity to depth against the structure's level; and of
ours how content is followed against guidance. `evaluation.edit_scores` says what each
score measures; what has no ground truth (clips of one's own) is
left out. Consistencies are cosines of the run's own content encoder: where that is not
CLIP they compare within this report alone.

Writes eval/report.json, eval/edits.csv, eval/*.svg and the gallery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
import time
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import api
from lamd_jax import gallery
from lamd_jax import learning_curves
from lamd_jax import line_plot
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax.data import captions
from lamd_jax.data import pipeline
from lamd_jax.data.procedural.cater import captions as cater_captions
from lamd_jax.errors import DataError
from lamd_jax.evaluation import caption_following
from lamd_jax.evaluation import clip_scores
from lamd_jax.evaluation import edit_scores
from lamd_jax.modes import edit_points
from lamd_jax.modes import edit_retrieval

_SHOWN = 6  # clips of each kind in the gallery
_SMALLEST_TRACKED = 48  # pixels; in smaller frames an object is a pixel or two
# What the paper claims: (knob, score, whether it rises with the knob).
_CLAIMS = (
  ("temporal_guidance", "frame_consistency", True),
  ("structure_level", "prompt_consistency", True),
  ("structure_level", "mask_iou", False),
)
_PLOTS = {
  "temporal_guidance": ("frame_consistency", "warp_error", "motion"),
  "structure_level": ("prompt_consistency", "mask_iou", "position_error", "found"),
  "guidance": ("colour", "material", "prompt_consistency"),
}
# Not CLIP's, whatever the paper means by the words.
_TITLES = {
  "frame_consistency": "frame consistency, own encoder",
  "prompt_consistency": "prompt consistency, own encoder",
  "mask_iou": "object mask IoU",
  "position_error": "position error, units",
  "found": "objects found",
  "colour": "right colour",
  "material": "right material",
  "warp_error": "warp error, grey levels",
  "motion": "motion, grey levels",
}
_ABOUT = (
  "A row edits one held-out clip, the driving clip: its structure is kept, the content is"
  " that of another clip, whose first frame and caption are shown. An edit's title says"
  " what was set otherwise than in the others, and whether the content was given by image"
  " or by text. Frame by frame: by the model without its temporal layers. Numbers under a"
  " clip are its own; the tables below are about all clips."
)
_LINES = ("true clips", "input unchanged", "frame by frame")  # beside a curve


class _World(NamedTuple):
  """What is known of clips of the procedural world; None where it is not."""

  instance: np.ndarray | None  # [N,T,H,W] uint8
  cones: np.ndarray | None  # [N,2] colour and material, of v1
  discriminant: edit_scores.Discriminant | None  # likewise


class _Clips(NamedTuple):
  """Held-out clips and what is told of them, row by row."""

  video: np.ndarray  # [N,T,H,W,3] uint8
  texts: list[str]
  tokens: np.ndarray | None  # [N,L] int32
  depth: np.ndarray | None  # [N,T,H,W,1] uint8
  world: _World


def _world(config: ConfigDict, evaluation: ConfigDict) -> _World:
  data, seed, count = config.data, config.seed, evaluation.clips
  tracked = data.world == "cater" and data.world_mode != "textured"
  if data.source != "procedural" or not tracked or data.size < _SMALLEST_TRACKED:
    return _World(None, None, None)
  instance = pipeline.instances(data, data.eval_split, count, seed)[..., 0]
  if data.world_mode != "v1" or data.captions != "appearance":
    return _World(instance, None, None)
  true = pipeline.clips(data, data.split, count, seed)
  fitted = edit_scores.fit_material(true, _cones(config, data.split, count))
  return _World(instance, _cones(config, data.eval_split, count), fitted)


def _cones(config: ConfigDict, split: str, count: int) -> np.ndarray:
  """Colour and material of each clip's cone, as its caption has them, [N,2]."""
  texts = pipeline.captions(config.data, split, count, config.seed)
  return np.stack([cater_captions.parse_appearance(text)[1, 2:] for text in texts])


def _read(model: api.Model, evaluation: ConfigDict) -> _Clips:
  config = model.config
  data, seed, count = config.data, config.seed, evaluation.clips
  video = pipeline.clips(data, data.eval_split, count, seed)
  if len(video) < 2:
    raise DataError(
      f"{len(video)} clips in the split {data.eval_split}: an edit takes its content from"
      " another clip; 2 or more are needed"
    )
  texts = pipeline.captions(data, data.eval_split, count, seed)
  depth = None
  if model.system.structured:
    depth = model.depth_of_clips(data.eval_split, count, seed)
  tokens = edit_points.tokens(captions.tokenizer(data), texts)
  return _Clips(video, texts, tokens, depth, _world(config, evaluation))


class _Scorer:
  """Scores any clips against structure and content of given rows."""

  def __init__(self, clips: _Clips, editor: edit_points.Editor, draws: np.ndarray):
    self._clips, self._editor, self.draws = clips, editor, draws
    self._texts = None
    if clips.tokens is not None:
      self._texts = editor.embed_texts(clips.tokens)

  def score(
    self, video: np.ndarray, structure: np.ndarray, content: np.ndarray
  ) -> edit_scores.Scores:
    """Clip i shall have the structure of row structure[i], the content of content[i]."""
    world = self._clips.world
    row = lambda values, rows: None if values is None else values[rows]
    wanted = edit_scores.Wanted(
      row(self._texts, content), row(world.instance, structure), row(world.cones, content)
    )
    found = self._editor.embed(video)
    return edit_scores.score(video, found, wanted, world.discriminant)

  def random_pairs(
    self, edits: np.ndarray, content: np.ndarray, away: np.ndarray
  ) -> edit_scores.Scores:
    """The floor: edits against other edits' structure and content."""
    found = self.score(edits, away, content[away])
    mixed = edit_scores.unrelated(self._editor.embed(edits), away)
    nowhere = np.full(len(edits), np.nan)
    return found._replace(
      frame_consistency=clip_scores.frame_consistency(mixed), motion=nowhere,
      warp_error=nowhere,
    )  # fmt: skip


def _baselines(
  scorer: _Scorer, clips: _Clips, model: api.Model, editor: edit_points.Editor,
  base: edit_points.Point, content: np.ndarray, away: np.ndarray,
) -> dict[str, edit_scores.Scores]:  # fmt: skip
  own = np.arange(len(content))
  alone = base._replace(frame_by_frame=True, temporal_guidance=1.0)
  return {
    "true clips": scorer.score(clips.video, own, own),
    "true clips, rebuilt": scorer.score(model.reconstruct(clips.video), own, own),
    "input unchanged": scorer.score(clips.video, own, content),
    "frame by frame": scorer.score(editor.edit(alone), own, content),
    "random pairs": scorer.random_pairs(editor.edit(base), content, away),
  }


def _claims(
  curves: Mapping[str, Sequence[edit_scores.Scores]], draws: np.ndarray
) -> list[dict[str, Any]]:
  found = []
  for knob, name, rises in _CLAIMS:
    if knob not in curves:
      continue
    points = [scores._asdict()[name] for scores in curves[knob]]
    held = edit_scores.direction(points, rises, draws)
    found.append({"knob": knob, "score": name, "rises": rises, **held})
  return found


def _csv(points: Sequence[Mapping[str, Any]]) -> str:
  """All curves, a line a score: knob, content, value, score, mean, interval."""
  lines = ["knob,content,value,score,mean,low,high"]
  for point in points:
    for name, found in point["scores"].items():
      if found["mean"] is None:
        continue
      numbers = (found["mean"], *found["interval"])
      numbers = ",".join(f"{number:.5f}" for number in numbers)
      lines.append(
        f"{point['knob']},{point['content']},{point['value']:g},{name},{numbers}"
      )
  return "\n".join(lines) + "\n"


def _plot(knob: str, name: str, result: Mapping[str, Any]) -> str:
  """A curve with its interval, and the baselines as level lines; "" without scores."""
  points = [p for p in result["curves"] if p["knob"] == knob]
  known = [(p["value"], p["scores"][name]) for p in points]
  known = [(x, score) for x, score in known if score["mean"] is not None]
  if not known:
    return ""
  ends = (known[0][0], known[-1][0])
  lines = {
    "edits": [(x, score["mean"]) for x, score in known],
    "95 %, from": [(x, score["interval"][0]) for x, score in known],
    "95 %, to": [(x, score["interval"][1]) for x, score in known],
  }
  for baseline in _LINES:
    value = result["baselines"][baseline][name]["mean"]
    if value is not None:
      lines[baseline] = [(x, value) for x in ends]
  title = f"{_TITLES[name]} ({points[0]['content']} content)"
  return line_plot.svg(title, knob.replace("_", " "), _TITLES[name], lines)


def _cell(score: Mapping[str, Any]) -> str:
  if score["mean"] is None:
    return "none"
  low, high = (f"{value:.3f}" for value in score["interval"])
  return f"{score['mean']:.3f} [{low}, {high}]"


def _held(claim: Mapping[str, Any]) -> list[str]:
  word = {True: "held", False: "not held", None: "not measured"}
  way = "rises" if claim["rises"] else "falls"
  return [
    f"{_TITLES[claim['score']]} {way} with {claim['knob'].replace('_', ' ')}",
    _cell(claim["change"]), word[claim["by_interval"]], word[claim["by_order"]],
  ]  # fmt: skip


def _table(knob: str, result: Mapping[str, Any]) -> gallery.Table:
  """One curve with the baselines below it, by the scores that it is about."""
  names, title = _PLOTS[knob], knob.replace("_", " ")
  points = [p for p in result["curves"] if p["knob"] == knob]
  named = {f"{title} {p['value']:g}": p["scores"] for p in points}
  rows = {**named, **result["baselines"]}
  return gallery.Table(
    f"Edits against {title}",
    f"{result['clips']} held-out clips, content from another clip's"
    f" {points[0]['content']}, 95 % bootstrap intervals. Objects are held against true"
    " masks of the driving clip. Consistencies are cosines of the run's own encoder"
    f" ({result['encoder']}). {result['weights']} weights, {result['sampler']},"
    f" {result['steps']} steps. True clips are the ceiling, as they are and through the"
    " autoencoder; random pairs, edits"
    " against what other edits were to be, the floor; frame by frame is the image model"
    " without temporal layers.",
    ("", *(_TITLES[name] for name in names)),
    [[row, *(_cell(scores[name]) for name in names)] for row, scores in rows.items()],
  )


def _tables(result: Mapping[str, Any]) -> list[gallery.Table]:
  knobs = dict.fromkeys(point["knob"] for point in result["curves"])
  return [
    gallery.Table(
      "The paper's directions",
      "The paper says which scores rise or fall with a setting. Here is the change from"
      " its first value to its last, over the same clips, with a 95 % bootstrap interval."
      " Held by interval: it lies on the right side of 0. Held by order: so do all steps"
      " between the means.",
      ("", "change", "by interval", "by order"),
      [_held(claim) for claim in result["directions"]],
    ),
    *(_table(knob, result) for knob in knobs),
    *([edit_retrieval.table(result["retrieval"])] if "retrieval" in result else []),
  ]  # fmt: skip


def _columns(
  clips: _Clips, content: np.ndarray, editor: edit_points.Editor,
  sweeps: Mapping[str, Sequence[edit_points.Point]],
  curves: Mapping[str, Sequence[edit_scores.Scores]], base: edit_points.Point,
) -> list[gallery.Column]:  # fmt: skip
  """Clips for the gallery; edits have the scores under them that their curve is about."""
  still = np.repeat(clips.video[content][:, :1], clips.video.shape[1], 1)
  columns = [gallery.Column("driving clip", clips.video[:_SHOWN])]
  if clips.depth is not None:
    grey = np.repeat(clips.depth[:_SHOWN], 3, -1)
    columns.append(gallery.Column("its depth", grey))
  columns.append(gallery.Column("content", still[:_SHOWN]))
  for knob in ("structure_level", "temporal_guidance"):
    for point, found in zip(sweeps.get(knob, ()), curves.get(knob, ())):
      value = point._asdict()[knob]
      title = f"{knob.replace('_', ' ')} {value:g}, content by {point.content}"
      scores = {_TITLES[name]: found._asdict()[name] for name in _PLOTS[knob]}
      columns.append(gallery.Column(title, editor.edit(point)[:_SHOWN], scores))
  alone = base._replace(frame_by_frame=True, temporal_guidance=1.0)
  return [*columns, gallery.Column("frame by frame", editor.edit(alone)[:_SHOWN])]


def _write(
  workdir: epath.Path, result: Mapping[str, Any], columns: Sequence[gallery.Column],
  texts: Sequence[str], config: ConfigDict, fps: float,
) -> None:  # fmt: skip
  folder = pathlib.Path(workdir) / "eval"
  media.write_text(folder / "report.json", json.dumps(result, indent=2) + "\n")
  media.write_text(folder / "edits.csv", _csv(result["curves"]))
  plots = "<h2>How scores change with the settings of an edit</h2>"
  for knob, names in _PLOTS.items():
    for name in names:
      if plot := _plot(knob, name, result):
        media.write_text(folder / f"{name}_{knob}.svg", plot)
        plots += plot
  tables = _tables(result)
  page = gallery.write(
    pathlib.Path(workdir) / "gallery",
    f"{config.name}, {config.variant}",
    columns,
    tables,
    {
      "config": f"configs/{config.name}.py:{config.variant}",
      "config hash": result["config_hash"],
      "clip": f"{config.data.frames} frames of {config.data.size} x {config.data.size}",
      "data": config.data.root or f"procedural {config.data.world}",
    },
    fps,
    texts[:_SHOWN],
    plots + learning_curves.html({config.name: pathlib.Path(workdir)}, config.stages),
    _ABOUT,
  )
  for table in tables:
    print(f"\n{table.title}")
    for row in (table.header, *table.rows):
      print(f"  {row[0]:<64}" + "".join(f"{cell:<32}" for cell in row[1:]).rstrip())
  print(f"\nscores   {folder / 'report.json'}\ngallery  {page}")


def report(
  config: ConfigDict, workdir: epath.Path, evaluation: ConfigDict
) -> dict[str, Any]:
  """Scores the run and writes its report; returns what report.json holds."""
  started = time.monotonic()
  model = api.from_workdir(config, workdir, evaluation.weights)
  edit_points.check(model, evaluation)
  config = model.config
  clips = _read(model, evaluation)
  count = len(clips.video)
  generator = np.random.default_rng(config.seed)
  content, away = (caption_following.derangement(generator, count) for _ in range(2))
  draws = generator.integers(0, count, (max(evaluation.bootstrap, 2), count))
  worded = clips.tokens is not None and edit_points.has_prior(model)
  tokens = clips.tokens[content] if worded else None
  sources = edit_points.Sources(clips.video[content][:, :1], tokens, clips.depth)
  editor = edit_points.Editor(model, evaluation, sources)
  scorer = _Scorer(clips, editor, draws)
  base, own = edit_points.base_point(model, evaluation), np.arange(count)
  sweeps = edit_points.sweeps(model, evaluation, worded)
  curves = {}
  for knob, points in sweeps.items():
    curves[knob] = [scorer.score(editor.edit(p), own, content) for p in points]
    print(f"{knob}: {len(points)} points, {time.monotonic() - started:.0f} s", flush=True)
  baselines = _baselines(scorer, clips, model, editor, base, content, away)
  result = {
    "protocol": edit_scores.PROTOCOL,
    "config_hash": run_folder.config_hash(config),
    "encoder": config.model.content.encoder,
    "weights": evaluation.weights,
    "sampler": evaluation.sampler,
    "steps": evaluation.edit_steps,
    "seed": evaluation.seed,
    "clips": count,
    "base": base._asdict(),
    "directions": _claims(curves, draws),
    "curves": [
      {"knob": knob, "content": point.content, "value": point._asdict()[knob],
       "scores": edit_scores.summary(scores, draws)}
      for knob, points in sweeps.items()
      for point, scores in zip(points, curves[knob], strict=True)
    ],
    "baselines": {
      name: edit_scores.summary(scores, draws) for name, scores in baselines.items()
    },
  }  # fmt: skip
  if clips.tokens is not None:
    result["retrieval"] = edit_retrieval.measure(
      editor, clips.video[:, :1], clips.texts, clips.tokens, worded, len(draws),
      config.seed,
    )  # fmt: skip
  columns = _columns(clips, content, editor, sweeps, curves, base)
  texts = [clips.texts[i] for i in content]
  _write(workdir, result, columns, texts, config, model.fps)
  print(f"scored in {time.monotonic() - started:.0f} s", flush=True)
  return result
