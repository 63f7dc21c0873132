# SPDX-License-Identifier: Apache-2.0
"""The report of disentanglement, of a model that is perfect and of runs it refuses."""

import json

from etils import epath
import numpy as np
import pytest

import tiny
from lamd_jax import run_folder
from lamd_jax.evaluation import cater_pairs
from lamd_jax.tools import disentanglement


class Perfect:
  """Rebuilds exactly, and transfers as the renderer would."""

  def __init__(self, config):
    self.config = config
    pairs = cater_pairs.render_pairs(8, config.data.frames, config.data.size, 0)
    self._truth = {p[0].tobytes(): p[1] for p in zip(pairs.motion, pairs.target)}

  def transfer(self, clips, images):
    stills = np.repeat(images, clips.shape[1], 1)
    pairs = zip(clips, stills, strict=True)
    return np.stack([self._truth.get(c.tobytes(), s) for c, s in pairs])

  def reconstruct(self, clips):
    return clips


def _run(folder, **overrides):
  config = tiny.lamd_config(**overrides)
  run_folder.write(epath.Path(folder), config)
  return config


def test_a_perfect_model_is_reported_as_one(tmp_path, monkeypatch, capsys):
  config = _run(tmp_path / "run", data__size=64, data__frames=16)
  monkeypatch.setattr(
    disentanglement.api, "from_workdir", lambda *_: Perfect(config)
  )
  draws = np.random.default_rng(0).normal(size=(2, 32, 1, 2, 2, 3))
  monkeypatch.setattr(disentanglement, "_maps", lambda model, clips: draws)
  code = disentanglement.main([
    f"--workdir={tmp_path / 'run'}", f"--out={tmp_path}", "--pairs=8",
    "--probe-clips=32", "--resamples=50",
  ])  # fmt: skip
  assert code == 0
  found = json.loads((tmp_path / "disentanglement.json").read_text())
  swapped = found["motion"]["swapped z_m"]
  assert swapped["donor"]["correlation"]["value"] > 0.97
  assert swapped["donor"]["error"]["interval"][1] < swapped["own"]["error"]["interval"][0]
  assert found["appearance"]["swapped z_m"]["nearer"]["value"] == 1
  assert found["reconstruction"]["own"]["value"] == 100
  assert found["reconstruction"]["shuffled"]["value"] < 40
  assert (tmp_path / "disentanglement.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"data__world": "sky", "data__world_mode": "drift", "data__tokenizer": "none",
      "model__text__encoder": "none"}, "procedural world cater"),
    ({"data__world_mode": "v2", "data__tokens": 64}, "mode v1"),
  ],
)  # fmt: skip
def test_other_worlds_are_refused_in_one_line(tmp_path, capsys, overrides, message):
  _run(tmp_path, **overrides)
  assert disentanglement.main([f"--workdir={tmp_path}"]) == 2
  error = capsys.readouterr().err.strip()
  assert message in error and "\n" not in error


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
  assert disentanglement.main([f"--workdir={tmp_path}"]) == 2
  assert "holds no run" in capsys.readouterr().err
