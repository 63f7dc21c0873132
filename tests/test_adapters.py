# SPDX-License-Identifier: Apache-2.0
"""LoRA files laid over a model: how much, how many, and for which model."""

import logging

import jax
import numpy as np
import pytest
import tiny

from lamd_jax import adapters
from lamd_jax import config as config_lib
from lamd_jax import knobs
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.systems import lora
from lamd_jax.systems import lvdm

QKV = ("middle_attention", "spatial_attention", "qkv", "kernel")


@pytest.fixture(scope="module")
def model():
  """A config and weights, drawn and not trained."""
  config = tiny.config()
  stage = lvdm.LVDM(config).stages()[1]
  params, extras = stage.init(0)
  return config, {"diffusion": {"params": params, "extras": extras}}


def _file(path, model, seed=0, system="lvdm", stage="diffusion"):
  """Writes changes of all attention; returns them too."""
  config, weights = model
  base = weights["diffusion"]["params"]
  tree = lora.init(base["denoiser"], 2, seed)
  draw = np.random.default_rng(seed)
  tree = jax.tree.map(lambda x: draw.standard_normal(x.shape).astype(np.float32), tree)
  changes = adapters.changes_of(tree, 3.0)
  config = config.copy_and_resolve_references()
  adapters.write(path, config, stage, base, changes)
  return changes


def _flat(weights):
  return keys.flatten(weights["diffusion"]["params"]["denoiser"])


def test_files_add_by_their_weights_and_nothing_else_moves(tmp_path, model):
  config, weights = model
  files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
  changes = [_file(path, model, i) for i, path in enumerate(files)]
  asked = adapters.asked(files, [0.8, -0.5])
  old, new = _flat(weights), _flat(adapters.over(config, weights, asked))
  expected = old[QKV].astype(np.float64)
  for change, weight in zip(changes, (0.8, -0.5)):
    a, b, _ = change[QKV[:-1]]
    expected = expected + weight * 3 / 2 * (a.astype(np.float64) @ b)
  np.testing.assert_allclose(new[QKV], expected, rtol=1e-4, atol=1e-5)
  moved = {path for path in old if not np.array_equal(old[path], new[path])}
  assert moved == {(*path, "kernel") for path in changes[0]}


def test_what_was_distilled_from_a_stage_changes_alike(tmp_path, model):
  config, weights = model
  student = jax.tree.map(lambda x: x + 1, {"params": weights["diffusion"]["params"]})
  changes = _file(tmp_path / "a.safetensors", model)
  asked = adapters.asked(tmp_path / "a.safetensors", 0.8)
  new = adapters.over(config, {**weights, "distill": student}, asked)
  old, laid = (_flat({"diffusion": x}) for x in (student, new["distill"]))
  a, b, _ = changes[QKV[:-1]]
  np.testing.assert_allclose(laid[QKV] - old[QKV], 0.8 * 3 / 2 * (a @ b), atol=1e-4)


def test_a_weight_of_nothing_is_the_model_bit_by_bit(tmp_path, model):
  config, weights = model
  _file(tmp_path / "a.safetensors", model)
  asked = adapters.asked(f"{tmp_path / 'a.safetensors'}, ", 0)
  old, new = _flat(weights), _flat(adapters.over(config, weights, asked))
  assert old.keys() == new.keys()
  for path, value in old.items():
    assert new[path].tobytes() == value.tobytes()
  assert adapters.over(config, weights, ()) == weights


def test_a_file_says_what_it_was_trained_on(tmp_path, model, caplog):
  config, weights = model
  path = tmp_path / "a.safetensors"
  _file(path, model)
  about = adapters.lora_file.about(path)
  assert (about["rank"], about["alpha"], about["stage"]) == (2, 3.0, "diffusion")
  assert about["base"] == adapters.base_hash(weights["diffusion"]["params"])
  with caplog.at_level(logging.WARNING, "absl"):
    adapters.over(config, weights, adapters.asked(path, 1.0))
    assert not caplog.records
    other = jax.tree.map(lambda x: x + 1, weights)
    adapters.over(config, other, adapters.asked(path, 1.0))
  assert "was trained on other weights" in caplog.text
  entry, = adapters.record(adapters.asked(path, 0.5))
  assert entry["weight"] == 0.5 and len(entry["sha256"]) == 64


def test_files_of_other_models_are_refused(tmp_path, model):
  config, weights = model
  path = tmp_path / "a.safetensors"
  asked = adapters.asked(path, 1.0)
  _file(path, model, stage="prediction")
  with pytest.raises(WeightsError, match="is for the stage prediction"):
    adapters.over(config, weights, asked)
  with pytest.raises(WeightsError, match="is for lvdm, this model is lamd"):
    adapters.over(tiny.lamd_config(), {"motion_diffusion": weights["diffusion"]}, asked)
  with pytest.raises(WeightsError, match="has no denoiser"):
    adapters.over(config, {}, asked)


def test_weights_are_checked():
  assert adapters.asked("a, b", (0.5,)) == (("a", 0.5), ("b", 0.5))
  assert adapters.asked("", (1.0,)) == ()
  assert adapters.numbers("0.8,-1") == (0.8, -1.0)
  for lora_weight, message in (((1.0, 2.0), "2 weights for 1 LoRA files"),
                               (1e9, "must lie between"), (float("nan"), "must lie")):
    with pytest.raises(ConfigError, match=message):
      adapters.asked("a", lora_weight)
  with pytest.raises(ConfigError, match="lora_weight=0.5: there is no LoRA file"):
    adapters.asked("", 0.5)
  with pytest.raises(ConfigError, match="numbers, as"):
    adapters.numbers("a")
  default = config_lib.sample_defaults()
  assert adapters.asked(default.lora, default.lora_weight) == ()
  with pytest.raises(ConfigError, match="is of lamd_jax.load"):
    knobs.settings(tiny.config(), {}, {"lora": "f"})
