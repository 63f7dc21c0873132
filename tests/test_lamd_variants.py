# SPDX-License-Identifier: Apache-2.0
"""LaMD's demos fit together: a step of each stage, traced and not run."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.data import pipeline
from lamd_jax.systems import lamd

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
NAMES = ("bair", "landscape", "cater_gen_v1", "cater_gen_v2", "mug")


def _config(name, variant):
  path = CONFIGS / f"lamd_{name}.py"
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


@pytest.mark.parametrize("name", NAMES)
def test_demos_draw_data_that_their_networks_take(name):
  config = _config(name, "demo")
  config.data.num_videos = 4
  clips = pipeline.clips(config.data, "test", 2, 0)
  assert clips.shape == (2, 16, 64, 64, 3) and clips.std() > 1
  system = lamd.LaMD(config)
  labels = pipeline.labels(config.data, "test", 2, 0)
  assert (labels is None) == (config.model.motion.num_classes == 0)
  if labels is not None:
    assert labels.min() >= 0 and labels.max() < config.model.motion.num_classes
  shape = lambda *sizes, dtype=jnp.int32: jax.ShapeDtypeStruct(sizes, dtype)
  tokens = None if config.data.tokenizer == "none" else shape(2, config.data.tokens)
  label = None if labels is None else shape(2)
  batch = types.VideoBatch(shape(*clips.shape, dtype=jnp.uint8), shape(2), label, tokens)
  frozen = {}
  for stage in system.stages():
    params, extras = stage.init(None)
    streams = rng.Streams(rng.root(0), jnp.zeros((), jnp.int32))
    step = lambda p, e, f, b: stage.forward(p, e, f, b, streams, stage.variants[0])
    own = {stage.name: {"params": params}}  # its averages, as a step gives them
    made = jax.eval_shape(step, params, extras, {**frozen, **own}, batch)
    assert all(np.prod(loss.shape) == 1 for loss in jax.tree.leaves(made.losses))
    frozen[stage.name] = {"params": params, "extras": made.extras}
