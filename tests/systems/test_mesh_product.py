# SPDX-License-Identifier: Apache-2.0
"""Every stage of every system with every preset of the mesh, against one device.

Minutes of compilation a stage: by hand, with -m slow. The gradients with one preset take
seconds each.
"""

from __future__ import annotations

import functools
import itertools

import jax
import mesh_equality
import numpy as np
import pytest
import tiny

from lamd_jax.modes import dry_run
from lamd_jax.systems.registry import SYSTEMS

PRESETS = ("dp", "fsdp", "fsdp_tp", "frames", "fsdp=2,tensor=2,frames=2")


def _long_config():
  return tiny.config(
    data__frames=16, stages=("autoencoder", "prediction", "interpolation"),
    prediction__sparse=2, prediction__latents=4, interpolation__latents=4,
  )  # fmt: skip


def _wide_config():
  """Two channels to a group: a norm over one channel and two frames is a step from -1 to
  1, and its gradient grows rounding by ten thousand."""
  return tiny.config(model__denoiser__channels=64)


def _wide_gen1_config():
  return tiny.gen1_config(model__image_autoencoder__channels=8)


# The config, the stage and which form of its step.
STAGES = {
  "lvdm autoencoder": (tiny.config, "autoencoder", "video"),
  "lvdm diffusion": (_wide_config, "diffusion", "video"),
  "text diffusion": (tiny.text_config, "diffusion", "video"),
  "lamd autoencoder": (tiny.lamd_config, "motion_autoencoder", "video"),
  "lamd diffusion": (tiny.lamd_config, "motion_diffusion", "video"),
  "gen1 autoencoder": (_wide_gen1_config, "autoencoder", "video"),
  "gen1 content": (tiny.gen1_config, "content", "video"),
  "gen1 image": (tiny.gen1_config, "image", "image"),
  "gen1 video": (tiny.gen1_config, "video", "video"),
  "gen1 structure": (tiny.gen1_config, "structure", "video"),
  "gen1 levels": (tiny.gen1_config, "structure_levels", "video"),
  "gen1 levels, images": (tiny.gen1_config, "structure_levels", "image"),
  "gen1 prior": (tiny.gen1_config, "prior", "video"),
}
# Networks and layers are those of the stages above: one mesh, of all axes.
FURTHER = {
  "lvdm prediction": (_long_config, "prediction", "video"),
  "lvdm interpolation": (_long_config, "interpolation", "video"),
  "lvdm distill": (_wide_config, "distill", "video"),
  "lamd distill": (tiny.lamd_config, "distill", "video"),
  "gen1 distill": (tiny.gen1_config, "distill", "video"),
}
# Clips of LaMD's test have 6 frames, which 2 divides. An image step takes clips apart:
# what `frames` cuts is one frame long there, and stays whole.


def _inputs(config, name):
  """Returns the stage, its frozen weights and a batch of noise."""
  stages = {s.name: s for s in SYSTEMS[config.system](config).stages()}
  stage, frozen = stages[name], {}
  for need in stage.needs:
    params, extras = stages[need].init(0)
    frozen[need] = {"params": mesh_equality.filled(params, 1), "extras": extras}
  rows = config.optim[name].batch
  shapes = dry_run._batch(stage, config, frozen, rows)
  random = np.random.default_rng(0)
  draw = lambda x: random.integers(
    0, 256 if x.dtype == np.uint8 else 2, x.shape
  ).astype(x.dtype)
  batch = jax.tree.map(draw, shapes)
  return stage, frozen, batch._replace(index=np.arange(rows, dtype=np.int32))


@functools.cache
def _alone(case):
  return _step(case, "one", 1)


def _step(case, preset, devices):
  make, name, variant = (STAGES | FURTHER)[case]
  config = make()
  stage, frozen, batch = _inputs(config, name)
  optim = config.optim[name]
  return mesh_equality.step_on(stage, optim, frozen, batch, preset, devices, variant)


@pytest.mark.slow
@pytest.mark.parametrize(
  "case, preset",
  [*itertools.product(STAGES, PRESETS), *((case, PRESETS[-1]) for case in FURTHER)],
)
def test_eight_devices_compute_what_one_does(case, preset):
  loss, (gradient, leaf) = mesh_equality.worst(_step(case, preset, 8), _alone(case))
  assert loss < 1e-5
  assert gradient < 1e-5, leaf


# Channels are cut where a network is a stage's own, its rows and kernels in other stages.
@pytest.mark.parametrize(
  "case, preset",
  [
    *((case, "fsdp_tp") for case in (
      "lvdm autoencoder", "lvdm diffusion", "lamd autoencoder", "lamd diffusion",
      "gen1 autoencoder", "gen1 content", "gen1 levels", "gen1 prior",
    )),
    *((case, "fsdp") for case in (
      "text diffusion", "gen1 image", "gen1 video", "gen1 structure", "lvdm prediction",
      "lvdm interpolation", "lvdm distill", "lamd distill",
    )),
  ],
)  # fmt: skip
def test_gradients_of_a_stage_are_those_of_one_device(case, preset):
  make, name, variant = (STAGES | FURTHER)[case]
  stage, frozen, batch = _inputs(make(), name)
  one, eight = (
    mesh_equality.gradients_on(stage, frozen, batch, name, devices, variant)
    for name, devices in (("one", 1), (preset, 8))
  )
  loss, (gradient, leaf) = mesh_equality.worst(eight, one)
  assert loss < 1e-5
  assert gradient < 1e-5, leaf
