# SPDX-License-Identifier: Apache-2.0
"""--mode=compile: its arguments, its report, and tiny configs where libtpu is there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import tiny

from lamd_jax import ahead
from lamd_jax import config as config_lib
from lamd_jax.errors import ConfigError
from lamd_jax.modes import compile as compile_mode
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import sharding

needs_libtpu = pytest.mark.skipif(
  not ahead.library(), reason="libtpu is not installed: pip install 'lamd_jax[tpu]'"
)
GIB = 2**30


def _found(fits, needed, arguments=1 * GIB):
  kinds = {"all-gather": (3, 5 * 2**20)}
  return ahead.Compiled(fits, needed, 16 * GIB, arguments, 1e12, kinds, 61.0)


def test_the_report_says_fit_gap_arguments_and_collectives():
  text = compile_mode.lines("train diffusion", _found(True, 12 * GIB), ["a=1: so"])
  assert text[0] == "train diffusion: fits, 4.00 GiB to spare"
  assert "  memory a device  12.00 GiB of 16.00 GiB" in text
  assert "  of it arguments  1.00 GiB" in text
  assert any("all-gather" in x and "3 with 5.0 MiB" in x for x in text)
  assert text[-1] == "  try              a=1: so"


def test_the_report_says_by_how_much_it_does_not_fit():
  text = compile_mode.lines("train diffusion", _found(False, 20 * GIB), [])
  assert text[0] == "train diffusion: does not fit, by 4.00 GiB"
  unknown = compile_mode.lines("train diffusion", _found(False, 0), [])
  assert unknown[0] == "train diffusion: does not fit, by an unknown amount"


def test_other_meshes_hold_what_their_cuts_leave():
  kernel = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  # 8 MiB that two and four divide and eight does not, and 4 KiB that stay whole.
  state = {"a": {"kernel": kernel(4, 524_284)}, "b": {"bias": kernel(1024)}}
  mesh = sharding.make_mesh("fsdp", jax.devices())
  found = compile_mode._other_meshes(mesh, state, {}, others=7)
  whole = 4 * 524_284 * 4
  assert found == {
    "data=4,fsdp=2": whole // 2 + 4096 + 7,
    "data=2,fsdp=4": whole // 4 + 4096 + 7,
    "fsdp=8": whole + 4096 + 7,
  }


@pytest.mark.parametrize("make", [tiny.config, tiny.text_config, tiny.lamd_config])
def test_programs_take_abstract_arguments_that_have_a_place(make):
  config = make()
  system = SYSTEMS[config.system](config)
  mesh = sharding.make_mesh("fsdp", jax.devices())
  sample = compile_mode.sample_settings(config, config_lib.sample_defaults())
  stages = system.stages()
  with jax.set_mesh(mesh):
    last = next(s for s in stages if s.name == config.stages[-1])
    _, arguments = compile_mode.train_program(last, config, stages, mesh)
    leaves = jax.tree.leaves(arguments)
    function, of_sample = compile_mode.sample_program(system, config, sample, mesh)
    made = jax.eval_shape(function, *of_sample)
  assert all(x.sharding.mesh == mesh for x in [*leaves, *jax.tree.leaves(of_sample)])
  size, frames = config.data.size, config.data.frames
  assert made.shape == (sample.batch * 8, frames, size, size, 3)


def test_without_cudnn_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(compile_mode.ahead, "devices", lambda _: jax.devices()[:1])
  monkeypatch.setattr(compile_mode.ahead, "cudnn", lambda: False)
  options = config_lib.compile_defaults()
  options.topology = "h200:1"
  with pytest.raises(ConfigError, match="pip install nvidia-cudnn-cu12"):
    compile_mode.open_slice(tiny.config(train__cudnn_attention=True), options)
  compile_mode.open_slice(tiny.config(), options)


@needs_libtpu
@pytest.mark.slow
def test_tiny_programs_compile_for_a_slice(capsys):
  config = tiny.config(train__mesh="fsdp", stages=("diffusion",))
  sample = config_lib.sample_defaults()
  sample.update(batch=1, steps=2)
  options = config_lib.compile_defaults()
  options.topology = "v5e:2x2"
  assert compile_mode.run(config, sample, options) == 0
  text = capsys.readouterr().out
  assert "train diffusion: fits" in text and "sample: fits" in text
  assert "all-gather" in text or "all-reduce" in text
