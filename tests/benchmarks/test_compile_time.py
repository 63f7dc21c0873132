# SPDX-License-Identifier: Apache-2.0
"""The benchmark of compile time: what it counts, on a few lines and a tiny step."""

import jax
import jax.numpy as jnp

from benchmarks import compile_time

TEXT = """
%fused_computation.1 (p: f32[2]) -> f32[2] {
  ROOT %dot.1 = f32[2]{0} dot(%p, %p), metadata={op_name="jit(_step)/jvp(UNet)/dot"}
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %a = f32[2]{0} fusion(%p), calls=%f, metadata={op_name="jit(_step)/jvp(UNet)/add"}
  %b = f32[2]{0} dot(%p), metadata={op_name="jit(_step)/transpose(jvp(UNet))/dot"}
  %c = f32[2]{0} fusion(%p), calls=%f, metadata={op_name="jit(_step)/slice"}
  %d = f32[2]{0} fusion(%p), calls=%f, metadata={op_name="jit(_step)/cond/sqrt"}
  %e = f32[2]{0} fusion(%p), calls=%f, metadata={op_name="jit(_step)/concatenate"}
  ROOT %f = f32[2]{0} fusion(%p), calls=%f
}
"""


def test_pieces_are_counted_by_part_and_bodies_of_fusions_are_not():
  expected = {"forward": 1, "backward": 1, "update": 1, "packing": 2, "other": 1}
  assert compile_time.count(TEXT) == expected


def test_a_real_program_has_forward_and_backward_pieces():
  loss = lambda w, x: jnp.sum(jnp.tanh(x @ w))
  shapes = [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 2
  text = jax.jit(jax.value_and_grad(loss)).lower(*shapes).compile().as_text()
  found = compile_time.count(text)
  assert found["forward"] >= 1 and found["backward"] >= 1


def test_depth_is_five_sizes_of_one_unet():
  rows = list(compile_time._deeper())
  sizes = [len(config.model.denoiser.channel_mult) for _, _, config in rows]
  assert sizes == [1, 2, 3, 2, 2]
  assert rows[-1][:2] == ("2 level(s)", "3 block(s)")
