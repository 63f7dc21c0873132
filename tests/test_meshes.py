# SPDX-License-Identifier: Apache-2.0
"""What train.mesh means, and what it refuses. No device is needed."""

from __future__ import annotations

import pytest

from lamd_jax import config as config_lib
from lamd_jax import meshes
from lamd_jax import validation
from lamd_jax.errors import ConfigError


@pytest.mark.parametrize(
  "mesh, devices, shape",
  [
    ("one", 8, (1, 1, 1, 1)),
    ("dp", 8, (8, 1, 1, 1)),
    ("dp", 1, (1, 1, 1, 1)),
    ("fsdp", 256, (1, 256, 1, 1)),
    ("fsdp_tp", 256, (1, 128, 2, 1)),
    ("frames", 8, (4, 1, 1, 2)),
    ("data=2,fsdp=-1,tensor=4", 32, (2, 4, 4, 1)),
    ("frames=8", 8, (1, 1, 1, 8)),
    (" tensor = 2 , data = -1 ", 6, (3, 1, 2, 1)),
  ],
)
def test_sizes(mesh, devices, shape):
  assert tuple(meshes.sizes(mesh, devices).values()) == shape
  assert meshes.batch_parts(mesh, devices) == shape[0] * shape[1]


@pytest.mark.parametrize(
  "mesh, devices, message",
  [
    ("ddp", 8, "'ddp' is not one of one, dp, fsdp, fsdp_tp, frames"),
    ("fdsp=-1", 8, "'fdsp' is no axis; choose from data, fsdp, tensor, frames"),
    ("data=x", 8, "data=x is no number"),
    ("data=0", 8, "data=0 is no number"),
    ("tensor=--1", 8, "tensor=--1 is no number"),
    ("data=\N{SUPERSCRIPT TWO}", 8, "is no number"),
    ("data=1,data=8", 8, "data is named twice"),
    ("data=-1,fsdp=-1", 8, "-1 may stand once"),
    ("data=3,fsdp=-1", 8, "make 3, there are 8"),
    ("data=4", 8, "make 4, there are 8"),
    ("fsdp_tp", 1, "make 2, there are 1"),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(mesh, devices, message):
  with pytest.raises(ConfigError, match=message) as caught:
    meshes.sizes(mesh, devices)
  assert "\n" not in str(caught.value)


def _config(**train):
  tree = config_lib.defaults()
  tree.optim.autoencoder.batch = tree.optim.diffusion.batch = 8
  tree.train.update(train)
  return tree


def test_the_batch_is_cut_by_data_and_fsdp_alone():
  validation.check_config(_config(mesh="fsdp=4,tensor=2"), 8)
  with pytest.raises(ConfigError, match="optim.autoencoder.batch=8.*accumulate x"):
    validation.check_config(_config(mesh="dp"), 16)
  validation.check_config(_config(mesh="fsdp_tp"), 16)


def test_clips_that_cannot_be_cut_in_time_are_refused():
  validation.check_config(_config(mesh="data=2,frames=4"), 8)  # 16 frames, 4 latents
  with pytest.raises(ConfigError, match="data.frames=16.*divisible by 8 x 4"):
    validation.check_config(_config(mesh="frames=8"), 8)
