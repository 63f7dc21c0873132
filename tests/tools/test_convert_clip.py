# SPDX-License-Identifier: Apache-2.0
"""python -m lamd_jax.tools.convert clip, on small files of the published forms."""

import hashlib
import json

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import clip_text as network_file
from lamd_jax.tools import convert
from lamd_jax.tools import convert_clip
import torch_writer

TINY = network_file.ClipText(12, 8, 1, 2, 5)
PROJECTED = TINY.clone(projection=8)


@pytest.fixture(scope="module")
def state():
  """The text tower with its projection, as Hugging Face names it."""
  shapes = clip_text.shapes(PROJECTED)
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, shape in keys.source_shapes(shapes, clip_text.rules(shapes)).items()
  }


# What the rest of CLIP adds to the file.
REST = {
  "logit_scale": np.float32([4.6]),
  "vision_model.pre_layrnorm.weight": np.ones(8, np.float32),
  "visual_projection.weight": np.ones((8, 8), np.float32),
}


def _sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_whole_clip_gives_its_text_tower(state, tmp_path, capsys):
  source, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
  safetensors_file.write(source, {**state, **REST}, {})
  convert_clip.convert_clip(source, out, TINY)
  said = capsys.readouterr().out
  assert f"{_sha256(source)}  {source}" in said and f"{_sha256(out)}  {out}" in said
  assert "not used: 3 tensors" in said
  written = safetensors_file.read(out)
  assert set(written) == set(state)
  for name, value in state.items():
    np.testing.assert_array_equal(written[name], value, strict=True)
  record = json.loads((tmp_path / f"{out.name}.json").read_text())
  assert record["part"] == "clip_vit_l_14_text"
  assert record["sources"][0]["sha256"] == _sha256(source)
  assert record["sources"][0]["as_published"] is None
  assert set(record["not_used"]) == set(REST)
  assert record["keys"]["text_projection.weight"] == "projection_kernel"
  assert record["output"]["sha256"] == _sha256(out)
  # A run without projection reads it as well.
  assert "projection_kernel" not in clip_text.load(out, TINY)


def _openai(state):
  layer, block = "text_model.encoder.layers.0", "transformer.resblocks.0"
  found = {
    "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
    "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
    "text_projection": state["text_projection.weight"].T,
    "visual.proj": np.ones((8, 8), np.float32),
    "logit_scale": np.float32([4.6]),
  }
  for leaf in ("weight", "bias"):
    found[f"ln_final.{leaf}"] = state[f"text_model.final_layer_norm.{leaf}"]
    rows = [state[f"{layer}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
    found[f"{block}.attn.in_proj_{leaf}"] = np.concatenate(rows)
    for theirs, ours in [
      ("attn.out_proj", "self_attn.out_proj"),
      ("ln_1", "layer_norm1"),
      ("ln_2", "layer_norm2"),
      ("mlp.c_fc", "mlp.fc1"),
      ("mlp.c_proj", "mlp.fc2"),
    ]:
      found[f"{block}.{theirs}.{leaf}"] = state[f"{layer}.{ours}.{leaf}"]
  return found


@pytest.mark.parametrize("older", [True, False])
def test_all_forms_give_the_same_file(state, tmp_path, older):
  out = tmp_path / "out.safetensors"
  source = tmp_path / "model.safetensors"
  safetensors_file.write(source, state, {})
  convert_clip.convert_clip(source, out, TINY)
  digest = _sha256(out)
  for name, arrays in (("hf.bin", {**state, **REST}), ("openai.pt", _openai(state))):
    torch_writer.write_state(tmp_path / name, arrays, older=older)
    convert_clip.convert_clip(tmp_path / name, out, TINY)
    assert _sha256(out) == digest


def test_without_projection(state, tmp_path):
  source, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
  tower = {
    name.removeprefix("text_model."): value
    for name, value in state.items()
    if name != clip_text.PROJECTION
  }
  safetensors_file.write(source, tower, {})
  convert_clip.convert_clip(source, out, TINY)
  assert set(safetensors_file.read(out)) == set(state) - {clip_text.PROJECTION}
  with pytest.raises(WeightsError, match="text_projection.weight is missing"):
    clip_text.load(out, PROJECTED)


def test_wrong_sources_leave_no_output(state, tmp_path):
  source, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
  fc1 = "text_model.encoder.layers.0.mlp.fc1.weight"
  for mutated, message in [
    ({k: v for k, v in state.items() if k != fc1}, f"{fc1} is missing"),
    ({**state, fc1: state[fc1].T}, f"{fc1} has shape"),
    ({**state, "text_model.extra": state[fc1]}, "text_model.extra is unused"),
  ]:
    safetensors_file.write(source, mutated, {})
    with pytest.raises(WeightsError, match=f"^{source}: .*{message}"):
      convert_clip.convert_clip(source, out, TINY)
  assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_the_command(tmp_path, capsys):
  source = tmp_path / "model.bin"
  call = lambda out: convert.main(["clip", f"--source={source}", f"--out={out}"])
  assert call(tmp_path / "x.npz") == 2
  assert ".safetensors" in capsys.readouterr().err
  assert call(tmp_path / "x.safetensors") == 4
  error = capsys.readouterr().err
  assert error.startswith(f"lamd_jax: {source} cannot be read") and error.count("\n") == 1
  # ViT-L/14 is expected there: a file of other widths is refused.
  torch_writer.write_state(source, {"logit_scale": np.float32([1])}, older=False)
  assert call(tmp_path / "x.safetensors") == 4
  assert "(196 differences)" in capsys.readouterr().err


def test_another_network_is_named_and_held_to(state, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(convert_clip._NETWORKS, "h14", (TINY, "vit_h_14"))
  safetensors_file.write(tmp_path / "a.safetensors", {**state, **REST}, {})
  out = tmp_path / "out.safetensors"
  call = lambda name: convert.main([
    "clip", f"--source={tmp_path / 'a.safetensors'}", f"--network={name}", f"--out={out}"
  ])
  assert call("h14") == 0
  assert json.loads((tmp_path / f"{out.name}.json").read_text())["part"] == (
    "clip_vit_h_14_text"
  )
  capsys.readouterr()
  assert call("b32") == 4
  assert "weights do not fit" in capsys.readouterr().err
