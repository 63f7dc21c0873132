# SPDX-License-Identifier: Apache-2.0
"""Compiling for slices that are not there: names, messages, counts, tiny programs."""

from __future__ import annotations

import functools
import importlib.util

import jax
from jax.sharding import NamedSharding, PartitionSpec
import jax.numpy as jnp
import pytest

from lamd_jax import ahead
from lamd_jax.errors import ConfigError
from lamd_jax.nn import layers
from lamd_jax.ops import attention
from lamd_jax.ops import attention_row_by_row
from lamd_jax.ops import attention_rows_last
from lamd_jax.ops import axes
from lamd_jax.ops import conv_repeated
from lamd_jax.training import flops
from lamd_jax.training import sharding

needs_cuda = pytest.mark.skipif(
  not importlib.util.find_spec("jax_cuda12_plugin"),
  reason="the GPU compiler is not installed: pip install 'lamd_jax[cuda]'",
)
needs_cudnn = pytest.mark.skipif(
  not ahead.cudnn(), reason="cuDNN is not installed: pip install nvidia-cudnn-cu12"
)
needs_libtpu = pytest.mark.skipif(
  not ahead.library(), reason="libtpu is not installed: pip install 'lamd_jax[tpu]'"
)


@pytest.mark.parametrize(
  "topology, message",
  [
    ("v5litepod-16", "not known; take NAME:SHAPE.*v4, v5e.*h100, h200"),
    ("v5e:16", "v5e has 2 sizes, such as v5e:2x2"),
    ("v5p:4x4", "v5p has 3 sizes, such as v5p:2x2x2"),
    ("v5e:axb", "has 2 sizes"),
    ("v5e:64x64", "4096 chips; a slice of v5e has 256 at most"),
    ("h100:", "h100 has 1 or 2 sizes, such as h100:2x2"),
    ("h200:2x2x8", "h200 has 1 or 2 sizes"),
  ],
)
def test_wrong_names_say_what_a_name_is(topology, message):
  with pytest.raises(ConfigError, match=message):
    ahead.devices(topology)


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")
  with pytest.raises(ConfigError, match=r"pip install 'lamd_jax\[tpu\]'"):
    ahead.devices("v5e:2x2")


def test_without_the_cuda_plugin_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r"pip install 'lamd_jax\[cuda\]'"):
    ahead.devices("h200:8")


def test_of_a_card_jax_takes_three_quarters():
  # 141 GB cards show 150,754,820,096 bytes.
  assert ahead.available("h200:4x8") == pytest.approx(113.07e9, rel=1e-3)
  assert ahead.available("h100:8") == pytest.approx(63.7e9, rel=1e-3)


def test_overflow_is_read_from_the_compilers_message():
  # Messages of libtpu 0.0.42.
  temporaries = ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
                 " for HLO temporaries (512.00G) exceeds available HBM (15.75G).")  # fmt: skip
  used = "RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded hbm capacity"
  assert ahead.overflow(temporaries) == 512 * 2**30
  assert ahead.overflow(used) == 20.5 * 2**30
  assert ahead.overflow("something else") == 0


def test_collectives_are_counted_by_kind_with_their_bytes():
  text = """
  %a = f32[8,4]{1,0} all-gather(%x), dimensions={0}
  %b = (bf16[2]{0}, bf16[16]{0}) all-gather-start(%y), dimensions={0}
  %c = bf16[16]{0} all-gather-done(%b)
  %d = (f32[3]{0}, f32[5]{0}) all-reduce(%p, %q), to_apply=%add
  %e = f32[7]{0} all-reduce-start(%z), to_apply=%add
  %f = (s8[9]{0}, s8[9]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%z)
  %g = ((s8[1]{0}, s8[2]{0}), (s8[2]{0}, s8[4]{0})) all-gather-start(%p, %q)
  """
  # What travels stands in all that computes meanwhile, as libtpu writes it.
  text += """
  %h = bf16[4]{0} all-gather(%r), channel_id=44, dimensions={0}
  %i = bf16[4]{0:T(8,128)S(1)} all-gather(%r), channel_id=44, dimensions={0}
  %j = f32[5]{0} all-reduce(%r), channel_id=44, to_apply=%add
  """
  assert ahead.collectives(text) == {
    "all-gather": (4, 8 + 8 * 4 * 4 + 16 * 2 + 6),
    "all-reduce": (3, (3 + 5 + 7 + 5) * 4),
    "collective-permute": (1, 9),
  }


def _product(rows, topology="v5e:2x2"):
  mesh = sharding.make_mesh("fsdp", ahead.devices(topology))
  cut = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  shape = (rows, 4096)
  x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=cut)
  w = jax.ShapeDtypeStruct((4096, 4096), jnp.float32, sharding=cut)
  with jax.set_mesh(mesh):
    step = jax.jit(lambda x, w: jnp.sum(jnp.sin(x @ w)), out_shardings=None)
    return ahead.compile_program(step, (x, w), topology)


@needs_libtpu
def test_a_product_is_compiled_for_a_slice_without_one():
  found = _product(1024)
  assert found.fits and found.available == round(15.75 * 2**30)
  # A quarter of both operands on each of four chips, and 2 x 256 x 4096 x 4096 FLOPs.
  assert found.arguments == (1024 * 4096 + 4096 * 4096) // 4 * 4
  assert found.flops == pytest.approx(2 * 256 * 4096**2, rel=0.05)
  gathered, size = found.collectives["all-gather"]
  assert gathered >= 1 and size >= 4096 * 4096 * 2


@needs_libtpu
def test_rows_may_be_cut_over_any_chips_of_a_host():
  """Three of eight fill no block of a slice; sampling three clips takes them."""
  mesh = sharding.rows_mesh(ahead.devices("v5e:2x4")[:3])
  rows = jax.ShapeDtypeStruct(
    (6, 128), jnp.float32, sharding=sharding.batch_sharding(mesh)
  )
  found = ahead.compile_program(jax.jit(jnp.tanh), (rows,), "v5e:2x4")
  assert found.fits and not found.collectives


@needs_libtpu
def test_one_chip_is_a_slice_too():
  found = _product(1024, "v5e:1x1")
  assert found.arguments == (1024 * 4096 + 4096 * 4096) * 4
  assert not found.collectives


@needs_libtpu
def test_what_is_too_large_does_not_fit_and_says_by_how_much():
  found = _product(1 << 23)  # 32 GiB of rows on each chip
  assert not found.fits and found.needed > 32 * 2**30
  assert found.arguments == ((1 << 23) * 4096 + 4096 * 4096) // 4 * 4


@needs_libtpu
def test_a_cut_kernel_is_gathered_and_not_sent_round_a_ring():
  topology = "v5e:2x2"
  mesh = sharding.make_mesh("fsdp", ahead.devices(topology))
  place = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))
  cut = place(*[None] * 4, "fsdp")
  kernel = jax.ShapeDtypeStruct((1, 3, 3, 512, 512), jnp.float32, sharding=cut)
  x = jax.ShapeDtypeStruct((32, 2, 16, 16, 512), jnp.bfloat16, sharding=place("fsdp"))
  layer = layers.Conv(512, use_bias=False, dtype=jnp.bfloat16)

  @jax.jit
  def gradient(kernel, x):
    def loss(kernel):
      y = x
      for _ in range(2):
        y = jax.nn.silu(layer.apply({"params": {"kernel": kernel}}, y))
        y = jax.lax.with_sharding_constraint(y, place("fsdp"))
      return jnp.square(y).sum()

    return jax.lax.with_sharding_constraint(jax.grad(loss)(kernel), cut)

  with jax.set_mesh(mesh):
    found = ahead.compile_program(gradient, (kernel, x), topology, fast=True)
  # In bfloat16. Without `axes.gathered` there were eleven pieces on their way instead.
  assert found.collectives["all-gather"] == (1, 9 * 512 * 512 * 2)
  assert "collective-permute" not in found.collectives


@needs_cuda
def test_a_product_is_compiled_for_a_gpu_node_without_one():
  found = _product(1024, "h200:8")
  assert found.fits and found.available == ahead.available("h200:8")
  assert found.arguments == (1024 * 4096 + 4096 * 4096) // 8 * 4
  assert found.needed >= found.arguments
  assert found.collectives["all-gather"][0] >= 1


@needs_cuda
def test_repeated_borders_are_one_copy_and_no_exchange_on_gpus():
  topology, clips = "h200:2", 2
  mesh = sharding.make_mesh("dp", ahead.devices(topology))
  cut = NamedSharding(mesh, PartitionSpec(axes.MEANING["batch"]))
  x = jax.ShapeDtypeStruct((2 * clips, 16, 128, 128, 64), jnp.bfloat16, sharding=cut)
  pad = lambda x: conv_repeated.replicate_pad(x, (3, 3, 3), (1, 1, 1))
  with jax.set_mesh(mesh):
    found = ahead.compile_program(jax.jit(pad, out_shardings=cut), [x], topology)
  assert not found.collectives
  padded = clips * 18 * 130 * 130 * 64 * 2
  assert found.needed < found.arguments + 1.01 * padded


@needs_cudnn
@pytest.mark.parametrize("cut", ["dp", "fsdp_tp", "frames"])
def test_attention_by_cudnn_holds_no_logits_and_exchanges_nothing(cut):
  """No card has run it: what is compiled for one, and the arithmetic that is counted."""
  topology = "h200:8"
  mesh = sharding.make_mesh(cut, ahead.devices(topology))
  tensor = "tensor" if cut == "fsdp_tp" else None
  cut = NamedSharding(mesh, PartitionSpec(axes.MEANING["rows"], None, tensor))
  x, y = (
    jax.ShapeDtypeStruct((64, length, 8, 40), jnp.bfloat16, sharding=cut)
    for length in (1024, 256)
  )

  def compiled(cudnn):
    run = functools.partial(attention.attention, scale=0.2, cudnn=cudnn)
    loss = lambda *qkv: run(*qkv).astype(jnp.float32).sum()
    gradient = jax.grad(loss, (0, 1, 2))
    with jax.set_mesh(mesh):
      counted = [flops.count(f, x, y, y) for f in (loss, gradient)]
      program = jax.jit(gradient, out_shardings=cut)
      return ahead.compile_program(program, [x, y, y], topology), counted

  (ours, counted), (matrices, expected) = compiled(True), compiled(False)
  assert counted == expected
  assert not ours.collectives
  # Logits of a device: 8 rows, 8 heads, 1024 x 256 in float32, with all heads or half.
  assert matrices.needed - ours.needed > 64 << 20


@needs_libtpu
@pytest.mark.parametrize(["rows", "length", "times"], [(2048, 16, 3), (16, 1024, 4)])
def test_attention_over_rows_takes_little_memory_and_no_exchange(
  monkeypatch, rows, length, times
):
  """Between frames, then between pixels: so much less than by matrix products."""
  topology = "v5e:2x2"
  mesh = sharding.make_mesh("dp", ahead.devices(topology))
  cut = NamedSharding(mesh, PartitionSpec(axes.MEANING["rows"]))
  x = jax.ShapeDtypeStruct((4 * rows, length, 8, 16), jnp.bfloat16, sharding=cut)

  def compiled():
    loss = lambda *qkv: attention.attention(*qkv, 0.25).astype(jnp.float32).sum()
    with jax.set_mesh(mesh):
      program = jax.jit(jax.grad(loss, (0, 1, 2)), out_shardings=cut)
      return ahead.compile_program(program, [x] * 3, topology)

  ours = compiled()
  assert not ours.collectives
  for form in (attention_row_by_row, attention_rows_last):
    monkeypatch.setattr(form, "fits", lambda *_: False)
  assert compiled().needed > times * ours.needed
