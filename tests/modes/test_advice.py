# SPDX-License-Identifier: Apache-2.0
"""Suggestions from what a compiler measured; every number is worked out by hand."""

from __future__ import annotations

import tiny

from lamd_jax import ahead
from lamd_jax import config as config_lib
from lamd_jax.modes import advice

GIB = 2**30


def _found(needed, arguments, available=16.0):
  sizes = (round(x * GIB) for x in (needed, available, arguments))
  return ahead.Compiled(needed <= available, *sizes, 1e12, {}, 61.0)


def _config(batch=64, accumulate=2, remat="none"):
  return tiny.config(
    optim__diffusion__batch=batch, optim__diffusion__accumulate=accumulate,
    train__remat=remat,
  )  # fmt: skip


def _advice(config, found, parts=4, meshes=None):
  return advice.of_training("diffusion", config, found, parts, meshes or {})


def test_micro_batches_are_halved_until_they_fit():
  # 2 GiB stay, 36 GiB move with 8 clips a device; a third of them would fit, but 64
  # clips do not divide into 6 micro-batches: a quarter.
  lines = _advice(_config(), _found(38, 2))
  assert lines[0] == "optim.diffusion.accumulate=8: about 11.00 GiB"


def test_remat_is_told_what_it_has_to_save():
  lines = _advice(_config(), _found(20, 2))
  assert lines[1] == "train.remat=names: fits if it saves 22 % of the rest"  # 4 of 18
  assert not any("remat" in x for x in _advice(_config(remat="full"), _found(20, 2)))
  assert "train.remat=full" in _advice(_config(remat="names"), _found(20, 2))[1]


def test_the_mesh_whose_devices_hold_least_comes_first():
  meshes = {"data=2,fsdp=2": 10 * GIB, "data=1,fsdp=4": 6 * GIB, "fsdp=8": 9 * GIB}
  lines = _advice(_config(), _found(20, 12), meshes=meshes)
  assert lines[0] == "train.mesh=data=1,fsdp=4: state 6.00 GiB, about 14.00 GiB"
  same = _advice(_config(), _found(20, 6), meshes=meshes)
  assert not any("mesh" in line for line in same)


def test_a_state_that_is_too_large_is_not_answered_with_micro_batches():
  lines = _advice(_config(remat="full"), _found(33, 17))  # 8 clips move 16 GiB
  assert lines == ["a slice with more memory: one clip a device needs about 19.00 GiB"]


def test_room_is_turned_into_clips():
  # 8 clips a device move 3 GiB: 15 GiB hold 40; on 4 devices, in 2 micro-batches.
  lines = _advice(_config(), _found(4, 1))
  assert lines == ["optim.diffusion.batch=320: about 16.00 GiB"]
  assert _advice(_config(), _found(15, 1)) == []


def test_sampling_is_told_its_clips():
  sample = config_lib.sample_defaults()
  sample.batch = 16
  # 2 GiB of weights, 32 GiB for 16 clips: 7 fit into 14.
  lines = advice.of_sampling(sample, _found(34, 2))
  assert lines == ["--sample.batch=7: about 16.00 GiB"]
  assert advice.of_sampling(sample, _found(12, 2)) == []
  assert "weights alone" in advice.of_sampling(sample, _found(40, 15.9))[0]
