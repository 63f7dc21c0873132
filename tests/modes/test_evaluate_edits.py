# SPDX-License-Identifier: Apache-2.0
"""Gen-1's report from made-up scores: which points, what is written, what is claimed.

Edits themselves are made by a stand-in here; `tests/test_demo_gen1.py` trains a model.
"""

import types
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tiny

from lamd_jax import config as config_lib
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.evaluation import edit_scores
from lamd_jax.modes import edit_points
from lamd_jax.modes import evaluate_edits

STAGES = ("autoencoder", "content", "structure_levels", "prior")


def _model(config, structured=True, stages=STAGES):
  system = types.SimpleNamespace(structured=structured, generates_with=STAGES)
  return types.SimpleNamespace(
    config=config, system=system, weights=dict.fromkeys(stages)
  )


def _evaluation(**changes):
  group = config_lib.eval_defaults()
  group.update(changes)
  return group


def test_sweeps_vary_one_knob_and_share_points():
  config = tiny.gen1_config(model__structure__levels=7, diffusion__guidance=4.0)
  sweeps = edit_points.sweeps(_model(config), _evaluation(), text=True)
  assert [p.structure_level for p in sweeps["structure_level"]] == [0, 3, 5, 7]
  assert {p.content for p in sweeps["structure_level"]} == {"text"}
  assert [p.temporal_guidance for p in sweeps["temporal_guidance"]] == [0.5, 1, 1.5]
  assert [p.guidance for p in sweeps["guidance"]] == [1, 4, 8]
  # Nine points; the model is compiled anew for six of them, since levels are arrays.
  points = {p for curve in sweeps.values() for p in curve}
  assert len(points) == 9
  assert len({p._replace(structure_level=0) for p in points}) == 6
  # Without words the level is swept at the point that the others start from.
  sweeps = edit_points.sweeps(_model(config), _evaluation(), text=False)
  assert edit_points.base_point(_model(config), _evaluation()) in sweeps["structure_level"]
  # Fewer levels, and none.
  few = tiny.gen1_config(model__structure__levels=3)
  sweeps = edit_points.sweeps(_model(few), _evaluation(), text=False)
  assert [p.structure_level for p in sweeps["structure_level"]] == [0, 3]
  sweeps = edit_points.sweeps(_model(config, structured=False), _evaluation(), text=False)
  assert set(sweeps) == {"temporal_guidance", "guidance"}


def test_what_is_not_trained_and_too_many_steps_are_said():
  config = tiny.gen1_config()
  with pytest.raises(WeightsError, match="content"):
    edit_points.check(_model(config, stages=("autoencoder",)), _evaluation())
  # Without a prior there are edits from pictures.
  edit_points.check(_model(config, stages=STAGES[:-1]), _evaluation())
  with pytest.raises(ConfigError, match="edit_steps=2000"):
    edit_points.check(_model(config), _evaluation(edit_steps=2000))


def test_the_world_is_read_where_it_is_known():
  config = tiny.gen1_config(data__size=48)
  world = evaluate_edits._world(config, _evaluation(clips=8))
  captions = pipeline.captions(config.data, "test", 8, config.seed)
  assert world.instance.shape == (8, 4, 48, 48) and world.cones.shape == (8, 2)
  colours = list(edit_scores.scenes.COLOURS)
  assert all(colours[c] in text for (c, _), text in zip(world.cones, captions))
  assert world.discriminant is not None
  # Too small to track, or of no world: nothing is known.
  small = evaluate_edits._world(tiny.gen1_config(), _evaluation(clips=8))
  folder = tiny.gen1_config(data__source="folder", data__size=48)
  assert small == evaluate_edits._world(folder, _evaluation(clips=8)) == (None,) * 3


class _Editor:
  """Returns the driving clips unchanged, with embeddings of mean colour."""

  def __init__(self, clips):
    self._clips = clips

  def edit(self, point):
    del point
    return self._clips

  def embed(self, clips):
    return 1 + clips.mean((2, 3)) / 255

  def embed_texts(self, tokens):
    return np.ones((len(tokens), 3))


def _result(clips):
  own, content = np.arange(len(clips.video)), np.roll(np.arange(len(clips.video)), 1)
  draws = np.random.default_rng(0).integers(0, len(own), (20, len(own)))
  editor = _Editor(clips.video)
  scorer = evaluate_edits._Scorer(clips, editor, draws)
  model = types.SimpleNamespace(reconstruct=lambda x: x)
  base = edit_points.Point("image", 0, 1.0, 4.0)
  found = scorer.score(clips.video, own, content)
  curves = {knob: [found] * 3 for knob in evaluate_edits._PLOTS}
  baselines = evaluate_edits._baselines(
    scorer, clips, model, editor, base, content, np.roll(own, 2)
  )
  summary = lambda scores: edit_scores.summary(scores, draws)
  return {
    "clips": len(own), "encoder": "small", "weights": "ema", "sampler": "ddim", "steps": 2,
    "directions": evaluate_edits._claims(curves, draws),
    "curves": [
      {"knob": knob, "content": "image", "value": value, "scores": summary(scores)}
      for knob, points in curves.items()
      for value, scores in zip((0.0, 1.0, 2.0), points)
    ],
    "baselines": {name: summary(scores) for name, scores in baselines.items()},
  }  # fmt: skip


@pytest.fixture(scope="module")
def clips():
  config = tiny.gen1_config(data__size=48)
  video = pipeline.clips(config.data, "test", 8, config.seed)
  world = evaluate_edits._world(config, _evaluation(clips=8))
  return evaluate_edits._Clips(video, [""] * 8, np.zeros((8, 4)), None, world)


def test_baselines_bound_an_edit_that_changes_nothing(clips):
  found = _result(clips)["baselines"]
  mean = lambda name, score: found[name][score]["mean"]
  assert mean("true clips", "colour") > 0.8 > mean("input unchanged", "colour")
  assert mean("true clips", "mask_iou") == mean("input unchanged", "mask_iou")
  assert mean("random pairs", "mask_iou") < 0.3 < mean("true clips", "mask_iou")
  assert mean("random pairs", "motion") is None
  assert mean("random pairs", "frame_consistency") < mean("true clips", "frame_consistency")


def test_tables_csv_and_plots_hold_every_score(clips):
  result = _result(clips)
  directions, *curves = evaluate_edits._tables(result)
  # Nothing changes along these curves, so that no claim is held.
  assert [row[2:] for row in directions.rows] == [["not held", "not held"]] * 3
  assert [len(table.rows) for table in curves] == [3 + 5] * 3  # points and baselines
  assert all(len(row) == len(table.header) for table in curves for row in table.rows)
  lines = evaluate_edits._csv(result["curves"]).splitlines()
  assert len(lines) == 1 + 9 * len(edit_scores.Scores._fields)
  assert {len(line.split(",")) for line in lines} == {7}
  for knob, names in evaluate_edits._PLOTS.items():
    for name in names:
      ElementTree.fromstring(evaluate_edits._plot(knob, name, result))


def test_clips_of_ones_own_leave_the_world_out(clips):
  nothing = evaluate_edits._World(None, None, None)
  result = _result(clips._replace(tokens=None, world=nothing))
  directions = evaluate_edits._tables(result)[0]
  words = [row[2] for row in directions.rows]
  assert words == ["not held", "not measured", "not measured"]
  assert evaluate_edits._plot("structure_level", "mask_iou", result) == ""


def test_edits_in_the_gallery_have_the_scores_of_their_curve(clips):
  own = np.arange(len(clips.video))
  editor = _Editor(clips.video)
  scorer = evaluate_edits._Scorer(clips, editor, np.zeros((1, len(own)), int))
  base = edit_points.Point("image", 0, 1.0, 4.0)
  found = scorer.score(clips.video, own, own)
  columns = evaluate_edits._columns(
    clips, own, editor, {"structure_level": [base]}, {"structure_level": [found]}, base
  )
  assert [(column.title, list(column.scores)) for column in columns] == [
    ("driving clip", []),
    ("content", []),
    (
      "structure level 0, content by image",
      ["prompt consistency, own encoder", "object mask IoU", "position error, units",
       "objects found"],
    ),
    ("frame by frame", []),
  ]  # fmt: skip
  assert list(columns[2].scores["object mask IoU"]) == list(found.mask_iou)
