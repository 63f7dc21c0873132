# SPDX-License-Identifier: Apache-2.0
"""Every name of DPT-Large has one place in ours, in both of its namings."""

import json
import math
import re

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import dpt
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import dpt as network_file
from lamd_jax.tools import convert
from lamd_jax.tools import convert_depth
import torch_writer

TINY = network_file.Dpt(
  8, 4, 2, taps=(0, 1, 2, 3), map_widths=(3, 4, 5, 6), features=4, size=64
)
LAYER = "dpt.encoder.layer"
DEEPEST = "neck.fusion_stage.layers.0.residual_layer1."
HEAD = {
  "pretrained.model.head.weight": np.ones((10, 8), np.float32),
  "pretrained.model.head.bias": np.ones(10, np.float32),
}
# From transformers' names to MiDaS's, written out here once more.
_TO_MIDAS = (
  (r"^dpt\.embeddings\.cls_token$", "pretrained.model.cls_token"),
  (r"^dpt\.embeddings\.position_embeddings$", "pretrained.model.pos_embed"),
  (r"^dpt\.embeddings\.patch_embeddings\.projection",
   "pretrained.model.patch_embed.proj"),
  (r"^dpt\.layernorm", "pretrained.model.norm"),
  (r"^dpt\.encoder\.layer", "pretrained.model.blocks"),
  (r"attention\.output\.dense", "attn.proj"),
  (r"intermediate\.dense", "mlp.fc1"),
  (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
  (r"layernorm_before", "norm1"),
  (r"layernorm_after", "norm2"),
  (r"^head\.head", "scratch.output_conv"),
  (r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2"),
)  # fmt: skip


def _midas(state):
  """The same weights as MiDaS publishes them."""
  found = {}
  for name, value in state.items():
    if m := re.match(r"neck\.reassemble_stage\.readout_projects\.(\d)\.0\.(.*)", name):
      name = f"pretrained.act_postprocess{int(m[1]) + 1}.0.project.0.{m[2]}"
    elif m := re.match(r"neck\.reassemble_stage\.layers\.(\d)\.(\w+)\.(.*)", name):
      place = {"projection": 3, "resize": 4}[m[2]]
      name = f"pretrained.act_postprocess{int(m[1]) + 1}.{place}.{m[3]}"
    elif m := re.match(r"neck\.convs\.(\d)\.weight", name):
      name = f"scratch.layer{int(m[1]) + 1}_rn.weight"
    elif m := re.match(r"neck\.fusion_stage\.layers\.(\d)\.(.*)", name):
      rest = m[2].replace("projection", "out_conv")
      name = f"scratch.refinenet{4 - int(m[1])}.{rest}"
    for pattern, new in _TO_MIDAS:
      name = re.sub(pattern, new, name)
    found[name] = value
  for name in [k for k in found if "attention.attention.query" in k]:
    parts = [name.replace("query", p) for p in ("query", "key", "value")]
    fused = np.concatenate([found.pop(p) for p in parts])
    found[name.replace("attention.attention.query", "attn.qkv")] = fused
  return found


def _same(a, b):
  assert set(a) == set(b)
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], strict=True)


@pytest.fixture(scope="module")
def state():
  expected = dpt.shapes(TINY)
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, shape in keys.source_shapes(expected, dpt.rules(expected)).items()
  }


def test_full_size_maps_one_to_one(fixtures):
  # Names and shapes of transformers' DPTForDepthEstimation.
  recorded = json.loads((fixtures / "dpt" / "full_keys.json").read_text())
  expected = dpt.shapes(network_file.DPT_LARGE)
  theirs = keys.source_shapes(expected, dpt.rules(expected))
  assert len(theirs) == 462
  assert theirs == {k: tuple(v) for k, v in recorded.items()}


def test_full_size_in_midas_names(fixtures):
  recorded = json.loads((fixtures / "dpt" / "full_keys.json").read_text())
  # Views of one number each: shapes without memory. Concatenation alone copies.
  state = {k: np.broadcast_to(np.float32(0), v) for k, v in recorded.items()}
  later = re.compile(r"(layer|blocks)\.([1-9]|1\d|2\d)\.")
  few = {k: v for k, v in state.items() if not later.search(k)}
  theirs = {k: v.shape for k, v in _midas(few).items()}
  expected = dpt.shapes(network_file.DPT_LARGE)
  found = keys.source_shapes(expected, dpt.rules(expected, "midas"))
  for part in ("q", "k", "v"):
    assert found.pop(f"pretrained.model.blocks.0.attn.{part}.weight") == (1024, 1024)
    assert found.pop(f"pretrained.model.blocks.0.attn.{part}.bias") == (1024,)
  assert theirs.pop("pretrained.model.blocks.0.attn.qkv.weight") == (3072, 1024)
  assert theirs.pop("pretrained.model.blocks.0.attn.qkv.bias") == (3072,)
  blocks = {k for k in found if later.search(k)}
  assert len(blocks) == 23 * 16
  assert {k: v for k, v in found.items() if k not in blocks} == theirs
  # The published file's 344,055,465 are these and ImageNet's classifier.
  count = sum(math.prod(shape) for shape in recorded.values())
  assert count + 1024 * 1000 + 1000 == 344_055_465


def test_each_tensor_goes_to_its_place(state):
  params = dpt.to_params(state, TINY)
  patches = state["dpt.embeddings.patch_embeddings.projection.weight"]
  np.testing.assert_array_equal(params["patch_kernel"][0, 1, 2], patches[:, :, 1, 2].T)
  fusion = "neck.fusion_stage.layers"
  for ours, theirs in [
    (params["block_1"]["dense_0"]["kernel"].T, f"{LAYER}.1.intermediate.dense.weight"),
    (params["block_2"]["v"]["bias"], f"{LAYER}.2.attention.attention.value.bias"),
    (params["final_norm"]["scale"], "dpt.layernorm.weight"),
    (params["resize_0"]["kernel"], "neck.reassemble_stage.layers.0.resize.weight"),
    (params["fusion_3"]["out"]["bias"], f"{fusion}.0.projection.bias"),
    (params["fusion_0"]["unit_2"]["conv_1"]["bias"],
     f"{fusion}.3.residual_layer2.convolution1.bias"),
    (params["head_1"]["bias"], "head.head.2.bias"),
  ]:  # fmt: skip
    np.testing.assert_array_equal(ours, state[theirs])


def test_both_namings_give_the_same_and_come_back(state):
  params, midas = dpt.to_params(state, TINY), _midas(state)
  assert (dpt.naming(state), dpt.naming(midas)) == ("transformers", "midas")
  again = dpt.to_params({**midas, **HEAD}, TINY)
  _same(keys.flatten(params), keys.flatten(again))
  _same(dpt.to_state(params), state)
  _same(dpt.to_state(params, "midas"), midas)
  half = {k: v.astype(np.float16) for k, v in state.items()}
  assert dpt.to_params(half, TINY)["positions"].dtype == np.float32


@pytest.mark.parametrize("midas", [False, True])
def test_the_unit_without_use_may_be_absent_as_a_whole(state, midas):
  less = {k: v for k, v in state.items() if not k.startswith(DEEPEST)}
  less = _midas(less) if midas else less
  absent = dpt.absent(less, TINY)
  assert len(absent) == 4 and not dpt.absent(_midas(state) if midas else state, TINY)
  params = dpt.to_params(less, TINY)
  assert not np.any(params["fusion_3"]["unit_1"]["conv_1"]["kernel"])
  np.testing.assert_array_equal(
    params["fusion_3"]["unit_2"]["conv_1"]["bias"],
    state["neck.fusion_stage.layers.0.residual_layer2.convolution1.bias"],
  )
  # A part of it, or that of another fusion, may not.
  name = f"{DEEPEST}convolution2.bias"
  with pytest.raises(WeightsError, match="convolution2.bias is missing"):
    dpt.to_params({k: v for k, v in state.items() if k != name}, TINY)
  other = DEEPEST.replace("layers.0", "layers.1")
  with pytest.raises(WeightsError, match="4 differences"):
    dpt.to_params({k: v for k, v in state.items() if not k.startswith(other)}, TINY)


def test_mutations_are_refused(state):
  name, midas = f"{LAYER}.0.intermediate.dense.weight", _midas(state)
  fused = "pretrained.model.blocks.1.attn.qkv.weight"
  for mutated, message in [
    ({k: v for k, v in state.items() if k != name}, f"{name} is missing"),
    ({**state, name: state[name].T}, f"{name} has shape"),
    ({**state, "dpt.pooler.dense.bias": state[name]}, "pooler.dense.bias is unused"),
    ({**state, name: state[name] * np.nan}, "block_0/dense_0/kernel not finite"),
    ({**state, **midas}, "is unused"),
    ({k: v for k, v in midas.items() if k != fused}, "attn.k.weight is missing"),
    ({**midas, fused: midas[fused].T}, f"{fused} is unused"),
    ({**midas, fused: midas[fused][:-3]}, "attn.q.weight has shape"),
    ({**midas, "scratch.stem.weight": state[name]}, "scratch.stem.weight is unused"),
  ]:
    with pytest.raises(WeightsError, match=message):
      dpt.to_params(mutated, TINY)


def test_all_forms_give_the_same_file(state, tmp_path, capsys):
  out, less = tmp_path / "out.safetensors", {**state}
  for name in [k for k in state if k.startswith(DEEPEST)]:
    less[name] = np.zeros_like(state[name])
  safetensors_file.write(tmp_path / "a.safetensors", state, {})
  torch_writer.write_state(tmp_path / "b.bin", state, True)
  torch_writer.write_state(tmp_path / "c.pt", {**_midas(state), **HEAD}, False)
  for name in ("a.safetensors", "b.bin", "c.pt"):
    convert_depth.convert_depth(tmp_path / name, out, TINY)
    _same(safetensors_file.read(out), state)
  assert "read as midas; not used: 2 tensors" in capsys.readouterr().out
  record = json.loads((tmp_path / "out.safetensors.json").read_text())
  assert record["part"] == "dpt_large" and record["not_used"] == list(HEAD)
  assert record["keys"]["head.head.4.bias"] == "scratch.output_conv.4.bias"
  # As transformers' files are.
  short = {k: v for k, v in state.items() if not k.startswith(DEEPEST)}
  safetensors_file.write(tmp_path / "d.safetensors", short, {})
  convert_depth.convert_depth(tmp_path / "d.safetensors", out, TINY)
  _same(safetensors_file.read(out), less)
  record = json.loads((tmp_path / "out.safetensors.json").read_text())
  assert len(record["absent"]) == 4
  assert "absent and in no output: 4 tensors" in capsys.readouterr().out


def test_the_command(state, tmp_path, capsys):
  # DPT-Large is expected there: other widths are refused, on one line.
  source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
  call = lambda to: convert.main(["depth", f"--source={source}", f"--out={to}"])
  assert call(tmp_path / "x.npz") == 2
  assert call(out) == 4
  assert capsys.readouterr().err.count("\n") == 2
  safetensors_file.write(source, state, {})
  assert call(out) == 4
  error = capsys.readouterr().err
  assert error.startswith(f"lamd_jax: {source}") and error.count("\n") == 1
  assert not out.exists()
  with pytest.raises(WeightsError, match="tools.convert depth"):
    dpt.load(out, TINY)
