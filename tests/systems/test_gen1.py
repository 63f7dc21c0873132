# SPDX-License-Identifier: Apache-2.0
"""Gen-1: sizes, what each stage takes over, image and video steps, what matters."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import rng
from lamd_jax import types
from lamd_jax import validation
from lamd_jax.errors import ConfigError
from lamd_jax.systems import further_stage
from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_stages
from lamd_jax.systems import parameter_groups
from lamd_jax.systems import sampling

import tiny

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
STREAMS = rng.Streams(rng.root(0), jnp.int32(0))


def _config(name, variant):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


def _count(tree):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("stage, spatial, temporal", [
  # Stable Diffusion 1's UNet, with 4 and with 12 input channels; what the temporal
  # layers add is counted by hand in test_gen1_blocks.
  ("image", 859_520_964, 0),
  ("video", 859_520_964, 357_496_320),
  ("structure_levels", 859_544_004, 357_496_320),
])  # fmt: skip
def test_full_sizes(stage, spatial, temporal):
  system = gen1.Gen1(_config("gen1_davis", "paper"))
  params, _ = gen1_stages.Gen1Stage(system, stage).init(None)
  assert _count(params["denoiser"]) == spatial
  assert _count(params.get("temporal", {})) == temporal


@pytest.mark.parametrize("name, variant", [
  ("gen1_cater", "demo"), ("gen1_cater", "gpu"), ("gen1_davis", "paper"),
])  # fmt: skip
def test_configs_are_valid(name, variant):
  validation.check_config(_config(name, variant), 1)


@pytest.mark.parametrize("change, message", [
  (dict(model__first_stage="video"), "must be image"),
  (dict(data__depth="none"), "structure need it"),
  (dict(data__frames=8, model__denoiser__frame_positions=4), "frame_positions"),
  (dict(model__content__encoder="clip"), "small encoder"),
  (dict(data__tokenizer="none"), "must be words"),
  (dict(data__world="sky", data__world_mode="drift"), "cater alone"),
  (dict(data__depth="files"), "depth could lie beside"),
])  # fmt: skip
def test_what_does_not_fit_is_said(change, message):
  with pytest.raises(ConfigError, match=message):
    validation.check_config(tiny.gen1_config(**change), 1)


def test_groups_come_apart_and_together():
  tree = {"a": {"w": 1, "temporal_x": {"w": 2}}, "temporal_y": {"w": 3}, "b": {"w": 4}}
  spatial, temporal = parameter_groups.split(tree)
  assert spatial == {"a": {"w": 1}, "b": {"w": 4}}
  assert temporal == {"a": {"temporal_x": {"w": 2}}, "temporal_y": {"w": 3}}
  assert parameter_groups.merge(spatial, temporal) == tree


@pytest.fixture(scope="module")
def system():
  """Random weights everywhere: zero-initialised output layers are filled too."""
  system = gen1.Gen1(tiny.gen1_config())
  weights = {}
  for stage in system.stages():
    params, extras = stage.init(0)
    noise = np.random.RandomState(0)
    fill = lambda x: (x + 0.1 * noise.standard_normal(x.shape)).astype(np.float32)
    weights[stage.name] = {"params": jax.tree.map(fill, params), "extras": extras}
  return system, weights


def _stage(system, name):
  return next(s for s in system.stages() if s.name == name)


def test_a_coin_of_seed_and_step_chooses_image_steps(system):
  video = _stage(system[0], "video")
  chosen = [video.variant_at(step) for step in range(4000)]
  assert chosen == [_stage(system[0], "video").variant_at(s) for s in range(4000)]
  # Binomial with p = .125: a standard deviation of .0052.
  assert abs(chosen.count("image") / 4000 - 0.125) < 0.026
  other = gen1.Gen1(tiny.gen1_config(seed=1))
  assert chosen != [_stage(other, "video").variant_at(s) for s in range(4000)]
  assert {_stage(system[0], "image").variant_at(s) for s in range(50)} == {"image"}
  assert video.trained("image") == ("denoiser", "projector")
  assert set(video.trained("video")) == {"denoiser", "projector", "temporal"}


def test_stages_go_on_from_those_of_the_config():
  names = lambda **changes: {
    stage.name: stage.starts_from
    for stage in gen1.Gen1(tiny.gen1_config(**changes)).stages()
    if stage.name in gen1_stages.DIFFUSERS
  }
  assert names() == {
    "image": "", "video": "image", "structure": "video", "structure_levels": "structure"
  }  # fmt: skip
  assert names(stages=("image", "structure_levels"))["structure_levels"] == "image"
  assert names(model__denoiser_weights="f")["image"] == gen1_stages.IMPORTED


def test_structure_joins_without_effect_at_first(system):
  model, weights = system
  stage = _stage(model, "structure")
  params, extras = stage.start(*stage.init(1), weights["video"])
  for group, tree in weights["video"]["params"].items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      if "in_conv" not in jax.tree_util.keystr(path):
        taken = params[group]
        for key in path:
          taken = taken[key.key]
        np.testing.assert_array_equal(taken, leaf)
  known = weights["video"]["params"]["denoiser"]["in_conv"]["kernel"]
  kernel = params["denoiser"]["in_conv"]["kernel"]
  np.testing.assert_array_equal(kernel[..., : known.shape[-2], :], known)
  assert kernel.shape[-2] == known.shape[-2] + 2 + gen1_stages.LEVEL_CHANNELS
  assert not np.any(kernel[..., known.shape[-2] :, :])
  earlier = weights["video"]["extras"]
  assert all(extras[name] is value for name, value in earlier.items())
  assert set(extras) - set(earlier) == {"depth_mean", "depth_variance", "depth_count"}


def _batch(count=2):
  draw = np.random.RandomState(0)
  byte = lambda *shape: draw.randint(0, 255, shape).astype(np.uint8)
  return types.VideoBatch(
    byte(count, 4, 16, 16, 3), np.arange(count, dtype=np.int32), None,
    draw.randint(3, 200, (count, 24)).astype(np.int32), byte(count, 4, 16, 16, 1),
  )  # fmt: skip


def test_an_image_step_has_no_gradient_for_temporal_layers(system):
  """And embeddings' statistics move in the first of the stages alone."""
  model, weights = system
  batch = _batch()

  def forward(name, params):
    extras = weights[name]["extras"]
    stage = _stage(model, name)
    output = stage.forward(params, extras, weights, batch, STREAMS, "image")
    assert set(output.losses) == {"denoiser", "projector"}
    return output.losses["denoiser"], output.extras["embedding_mean"]

  differentiate = jax.jit(jax.value_and_grad(forward, 1, has_aux=True), static_argnums=0)
  (loss, mean), gradient = differentiate("video", weights["video"]["params"])
  largest = lambda group: max(
    float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient[group])
  )
  assert largest("temporal") == 0 < largest("denoiser")
  assert np.isfinite(loss)
  np.testing.assert_array_equal(mean, weights["video"]["extras"]["embedding_mean"])
  _, mean = jax.jit(forward, static_argnums=0)("image", weights["image"]["params"])
  assert np.any(mean != weights["image"]["extras"]["embedding_mean"])


def test_structure_is_degraded_by_level_and_told(system):
  model, weights = system
  depth = np.repeat(_batch().depth[:1], 3, axis=0)
  extras = weights["structure"]["extras"]

  @jax.jit
  def run(depth, level):
    z = model.depth_latents(weights, depth, level)
    return model.structure(z, level, extras)

  found = np.asarray(run(depth, np.array([0, 1, 3], np.int32)))
  assert found.shape == (3, 4, 4, 4, 2 + gen1_stages.LEVEL_CHANNELS)
  told = found[..., 2:]
  assert np.ptp(told, axis=(1, 2, 3)).max() == 0  # the same everywhere
  assert len(np.unique(told[:, 0, 0, 0].round(5), axis=0)) == 3
  apart = lambda a, b: np.abs(found[a, ..., :2] - found[b, ..., :2]).max()
  assert apart(0, 1) > 1e-3 and apart(0, 2) > 1e-3
  # A constant depth survives every level.
  flat = np.asarray(run(np.full_like(depth, 90), np.array([0, 1, 3], np.int32)))
  np.testing.assert_allclose(flat[1:, ..., :2], flat[[0, 0], ..., :2], atol=1e-4)


def test_the_first_stage_of_structure_measures_depth_and_the_next_keeps(system):
  model, weights = system
  batch = _batch()
  z = np.asarray(
    jax.jit(model.depth_latents)(weights, batch.depth, np.zeros(2, np.int32))
  )

  def extras_after(name):
    stage = _stage(model, name)
    params, extras = weights[name]["params"], weights["structure"]["extras"]
    run = jax.jit(lambda: stage.forward(params, extras, weights, batch, STREAMS, "video"))
    return run().extras

  found = extras_after("structure")
  assert found["depth_count"] == 1
  np.testing.assert_allclose(found["depth_mean"], z.mean((0, 1)), atol=1e-6)
  spread = np.square(z - z.mean((0, 1))).mean((0, 1, 2, 3))
  np.testing.assert_allclose(found["depth_variance"], spread, rtol=1e-5)
  kept = extras_after("structure_levels")
  for name in ("depth_mean", "depth_variance", "depth_count"):
    np.testing.assert_array_equal(kept[name], weights["structure"]["extras"][name])


@pytest.mark.parametrize("teaches", [False, True])
def test_the_first_stage_of_diffusion_may_take_clips(teaches):
  """Content is of one of a clip's frames, however many steps took their statistics."""
  stages = ("autoencoder", "content", "structure_levels", "distill")
  model = tiny.model(tiny.gen1_config(stages=stages))
  weights = model.weights
  stage = _stage(model.system, "structure_levels")
  if teaches:
    stage = _stage(model.system, "distill")._teacher
  params = weights["structure_levels"]["params"]
  extras = weights["structure_levels"]["extras"]
  extras = {**extras, "embedding_count": jnp.float32(300)}
  random = np.random.default_rng(0)
  clips = types.LatentBatch(
    mean=random.normal(size=(8, 4, 4, 4, 2)).astype(np.float32),
    log_variance=np.zeros((8, 4, 4, 4, 2), np.float32),
    index=np.arange(8, dtype=np.int32),
    depth=random.integers(0, 255, (8, 4, 16, 16, 1)).astype(np.uint8),
    embedding=random.normal(size=(8, 4, 8)).astype(np.float32),
  )
  show = jax.jit(
    lambda: stage.show(params, extras, weights, clips, STREAMS, "video")[2::2]
  )
  conditions, after = show()
  assert np.isfinite(conditions.context).all()
  # Whoever teaches goes on showing what is sampled.
  assert after["embedding_count"] == (300 if teaches else 301)
  for name in extras:
    assert np.array_equal(after[name], extras[name]) == teaches, name


def test_without_temporal_layers_it_is_distilled_and_trained_further():
  """A checkpoint gives back no group that has no arrays."""
  config = tiny.gen1_config(
    stages=("autoencoder", "content", "structure_levels", "distill"),
    model__denoiser__temporal_layers=False,
  )
  system = gen1.Gen1(config)
  teacher, distill = (_stage(system, name) for name in config.stages[2:])
  params, extras = teacher.init(None)
  assert params.pop("temporal") == {}
  known = {"params": params, "extras": extras}
  assert distill.start(*distill.init(None), known)[0]["temporal"] == {}
  further = further_stage.FurtherStage(teacher, "full", 1, 1.0)
  assert further.start(*further.init(None), known)[0]["temporal"] == {}


def test_content_and_structure_matter_and_rows_stand_alone(system):
  model, weights = system
  batch = _batch()
  settings = sampling.SamplerSettings("ddim", 2, 0.0, "trailing", 3.0, 1.5)
  run = jax.jit(
    lambda i, p: model.sample_latents(weights, STREAMS, i, p, settings, 0)
  )
  index, level = np.arange(2, dtype=np.int32), np.zeros(2, np.int32)
  prompt = types.Prompt(
    image=batch.video[:, :1], depth=batch.depth, structure_level=level
  )
  z = np.asarray(run(index, prompt))
  assert z.shape == (2, 4, 4, 4, 2)
  for change in (
    {"image": prompt.image[::-1]}, {"depth": prompt.depth[::-1]},
    {"structure_level": level + 3},
  ):  # fmt: skip
    assert np.abs(np.asarray(run(index, prompt._replace(**change))) - z).max() > 1e-4
  # The second clip in the place of the first.
  swapped = jax.tree.map(lambda x: x[::-1], prompt)
  np.testing.assert_allclose(run(index[::-1], swapped)[::-1], z, atol=1e-4)
