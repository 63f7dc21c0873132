# SPDX-License-Identifier: Apache-2.0
"""Full networks with random weights through the command, from files to reports."""

import json

from etils import epath
import numpy as np
import pytest
import tiny

from lamd_jax import main
from lamd_jax import run_folder
from lamd_jax.interchange import i3d as i3d_weights
from lamd_jax.interchange import keys
from lamd_jax.interchange import perceptual as perceptual_weights
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import i3d
from lamd_jax.networks import perceptual
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.tools import score_selftest
from lamd_jax.training import checkpoints

pytestmark = pytest.mark.slow
_FEW = "pixels=0,frames=9,reals=8,fakes=8,multiple=1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run whose stages were drawn and not trained, which is enough here."""
  workdir = epath.Path(tmp_path_factory.mktemp("run"))
  config = tiny.config(
    data__frames=9, data__size=32, model__autoencoder__downsample=(1, 4, 4),
    model__denoiser__temporal_length=9, train__mesh="one",
  )  # fmt: skip
  for stage in SYSTEMS["lvdm"](config).stages():
    if stage.name in config.stages:
      params, extras = stage.init(0)
      checkpoints.write_finished(workdir / stage.name, params, {}, extras)
  run_folder.write(workdir, config)
  return workdir


def _evaluate(run, protocol, **more):
  flags = {"clips": 8, "steps": 2, "bootstrap": 10, "batch": 4, "protocol": protocol} | more
  code = main.run([
    "main", f"--workdir={run}", "--mode=evaluate",
    *(f"--eval.{key}={value}" for key, value in flags.items()),
  ])  # fmt: skip
  assert code == 0
  name = f"{protocol}-{more.get('task', 'generation')}"
  assert (run / "eval" / f"{name}.html").exists()
  return json.loads((run / "eval" / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def _no_user_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_fvd_of_a_run(run, tmp_path):
  weights = tmp_path / "i3d.safetensors"
  state = i3d_weights.to_state(score_selftest.filled(i3d.I3D(1e-5)))
  safetensors_file.write(weights, state, {})
  found = _evaluate(run, "lvdm", weights_i3d=weights, changes=_FEW)
  values = {name: rows[0]["value"] for name, rows in found["scores"].items()}
  assert found["scores"]["fakes"][0]["title"] == "FVD"
  assert sum(name.startswith("baseline: ") for name in values) == 2
  assert np.isfinite(list(values.values())).all()
  # What an untrained model makes is no sky.
  floor = next(v for name, v in values.items() if name.startswith("floor"))
  assert values["fakes"] > 2 * floor


def test_lpips_of_reconstructions(run, tmp_path):
  draw, state = np.random.default_rng(3), {}
  shapes = keys.source_shapes(perceptual.shapes(), perceptual_weights.rules())
  for name, shape in shapes.items():
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.05
    state[name] = (draw.standard_normal(shape) * scale).astype(np.float32)
    state[name] = np.abs(state[name]) if name.startswith("lin") else state[name]
  weights = tmp_path / "lpips.safetensors"
  safetensors_file.write(weights, state, {})
  found = _evaluate(
    run, "pairs_lpips", weights_lpips=weights, changes="frames=9", task="reconstruction"
  )
  lpips = {
    name: next(r["value"] for r in rows if r["title"].startswith("LPIPS"))
    for name, rows in found["scores"].items()
  }
  still, encoded = lpips["baseline: first frame repeated"], next(
    value for name, value in lpips.items() if name.startswith("yardstick")
  )
  # A decoder that learnt nothing is worse than a file, and than standing still.
  assert 0 < encoded < lpips["fakes"] and 0 < still < lpips["fakes"]
  assert set(lpips) >= {"floor: another real clip"}
