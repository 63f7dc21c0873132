# SPDX-License-Identifier: Apache-2.0
"""Distillation as a user meets it: added to a finished run, sampled by its own sampler.

The runs are of random weights written as finished stages, so that only the stage in
question is trained.
"""

import hashlib

from etils import epath
import jax
import numpy as np
import pytest

import lamd_jax
from lamd_jax import knobs
from lamd_jax import main
from lamd_jax import run_folder
from lamd_jax import validation
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import checkpoints

import mesh_equality
import tiny

TEXT = "a small gold metal cone rotates"
SHORT = {"train__latent_cache": True, "optim__distill__steps": 4}


def write_run(config, workdir):
  """Writes every stage of the config as if it had been trained; returns the teacher."""
  run_folder.write(epath.Path(workdir), config)
  system = SYSTEMS[config.system](config)
  for number, stage in enumerate(system.stages()):
    if stage.name in config.stages:
      params, extras = stage.init(0)
      params = {g: mesh_equality.filled(x, number) for g, x in params.items()}
      if stage.name.endswith("autoencoder"):
        extras |= {"latent_shift": np.float32(0.1), "latent_scale": np.float32(0.9)}
      checkpoints.write_finished(workdir / stage.name, params, {}, extras)
  return [s for s in system.stages() if s.name == "distill"][0].starts_from


def digest(folder):
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def distil(config, workdir, *more):
  """Adds the stage by the command."""
  stages = ",".join((*config.stages, "distill"))
  return main.run(
    ["main", f"--workdir={workdir}", f"--config.stages={stages}", *more]
  )


def check_run(config, workdir, teacher, **told):
  """Only the student moves, and it is what the sampler asks."""
  before = digest(workdir / teacher)
  assert distil(config, workdir) == 0
  assert digest(workdir / teacher) == before
  taught = checkpoints.load_weights(workdir / teacher)["params"]
  weights = checkpoints.load_weights(workdir / "distill")["params"]
  assert set(weights) < set(taught) or set(weights) == set(taught)
  moved = [
    np.abs(a - b).max()
    for group in weights
    for a, b in zip(*map(jax.tree.leaves, (weights[group], taught[group])), strict=True)
  ]
  # It starts from the teacher: four steps of Adam go at most four rates away.
  assert max(moved) > 0 and max(moved) < 4.5e-3
  model = lamd_jax.load(workdir)
  made = model.generate(2, sampler="consistency", seed=3, **told)
  assert made[0].frames.std() > 0
  # The student's weights and no others: with the teacher's in its place clips change.
  model.weights["distill"]["params"] = {g: model.weights[teacher]["params"][g] for g in weights}
  other = model.generate(2, sampler="consistency", seed=3, **told)
  assert np.any(made[0].frames != other[0].frames)
  return model


@pytest.mark.slow  # the parts are tested above; compiles a run, its teacher and itself
def test_a_finished_run_learns_few_steps(tmp_path, capsys):
  config = tiny.config(**SHORT)
  teacher = write_run(config, tmp_path)
  ask = ["main", f"--workdir={tmp_path}", "--mode=sample", "--sample.sampler=consistency"]
  assert main.run(ask) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "no distilled network" in error and "autoencoder,diffusion,distill" in error
  model = check_run(config, tmp_path, teacher)
  with pytest.raises(ConfigError, match="has the guidance that it was trained with"):
    model.generate(sampler="consistency", guidance=2.0)
  # Four steps where nothing is said, and as many as are asked for.
  out = capsys.readouterr().out
  assert "distill: 4 steps" in out and out.count("finished before") == 2
  asked = lambda **given: knobs.settings(model.config, model.weights, given)
  assert (asked(sampler="consistency").steps, asked().steps) == (4, 20)
  assert asked(sampler="consistency", steps=2).steps == 2
  assert asked(sampler="consistency").spacing == "trailing"
  del model.weights["distill"]
  with pytest.raises(WeightsError, match="distill of this run is not trained"):
    model.generate(sampler="consistency")


@pytest.mark.slow
def test_it_resumes_bit_by_bit(tmp_path):
  config = tiny.config(**SHORT, train__checkpoint_every=2)
  for name in ("whole", "halves"):
    write_run(config, tmp_path / name)
  assert distil(config, tmp_path / "whole") == 0
  assert distil(config, tmp_path / "halves", "--config.optim.distill.steps=2") == 0
  (tmp_path / "halves" / "distill" / "finished.json").unlink()
  assert distil(config, tmp_path / "halves", "--config.optim.distill.steps=4") == 0
  for which in ("raw", "ema"):
    whole, halves = (
      checkpoints.load_weights(tmp_path / name / "distill", which)["params"]
      for name in ("whole", "halves")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, halves)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["text", "lamd", "gen1"])
def test_every_system_has_the_stage(tmp_path, system):
  make, told = {
    "text": (tiny.text_config, {"text": TEXT}),
    "lamd": (tiny.lamd_config, {"text": TEXT}),
    "gen1": (tiny.gen1_config, {}),
  }[system]
  config = make(**SHORT, distill__guidance=3.0)
  check_run(config, tmp_path, write_run(config, tmp_path), **told)


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"stages": ("autoencoder", "prediction", "distill")}, "distill learns from diffusion"),
    ({"distill__skip": 1000}, "must be below diffusion.steps=1000"),
    ({"distill__guidance": 2.0}, "nothing to be guided by"),
  ],
)
def test_what_cannot_be_distilled_is_refused(changes, words):
  config = tiny.config(**{"stages": ("autoencoder", "diffusion", "distill"), **changes})
  with pytest.raises(ConfigError, match=words):
    validation.check_config(config, 1)
