# SPDX-License-Identifier: Apache-2.0
"""LoRA files: common names read and written, bit by bit, and nothing else."""

import json

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
import tiny

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lora_file
from lamd_jax.interchange import safetensors_file
from lamd_jax.systems import gen1
from lamd_jax.systems import lamd
from lamd_jax.systems import lvdm
from lamd_jax.systems import parameter_groups

Q = ("down_1_attention", "spatial", "self_attention", "q")
K = ("middle_attention", "spatial", "cross_attention", "k")
# Names of Stable Diffusion 1's UNet, as its published files and kohya's have them.
NEWER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OLDER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"


def _shapes(system, name):
  stage = next(stage for stage in system.stages() if stage.name == name)
  params, _ = stage.init(None)
  if "temporal" in params:
    return parameter_groups.merge(params["denoiser"], params["temporal"])
  return params["denoiser"]


@pytest.fixture(scope="module")
def known():
  """The layers of a tiny UNet of Stable Diffusion's shape, with temporal ones."""
  return lora_file.layers("gen1", _shapes(gen1.Gen1(tiny.gen1_config()), "structure"))


def _change(layer, rank=2, alpha=3.0, seed=0):
  draw = np.random.default_rng(seed)
  of = lambda *shape: draw.standard_normal(shape).astype(np.float32)
  return lora_file.Change(of(layer.shape[0], rank), of(rank, layer.shape[1]), alpha)


def _write(path, state, metadata=None):
  whole = {name: np.ascontiguousarray(array) for name, array in state.items()}
  safetensors_numpy.save_file(whole, path, metadata)
  return path


def _same(a, b):
  assert a.keys() == b.keys()
  for path in a:
    for x, y in zip(a[path], b[path]):
      assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


@pytest.mark.parametrize(
  "name, system, stage",
  [
    ("lvdm", lambda: lvdm.LVDM(tiny.config()), "diffusion"),
    ("lvdm", lambda: lvdm.LVDM(tiny.text_config()), "diffusion"),
    ("lamd", lambda: lamd.LaMD(tiny.lamd_config()), "motion_diffusion"),
    ("gen1", None, "structure"),
  ],
)
def test_what_is_written_is_read_bit_by_bit(tmp_path, known, name, system, stage):
  if system is not None:
    known = lora_file.layers(name, _shapes(system(), stage))
  assert len({layer.names[0] for layer in known}) == len(known) > 10
  changes = {layer.path: _change(layer, seed=i) for i, layer in enumerate(known)}
  paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
  for path in paths:
    lora_file.write(path, changes, known, {"rank": 2, "base": "ab"})
  _same(lora_file.read(paths[0], known), changes)
  assert paths[0].read_bytes() == paths[1].read_bytes()
  assert lora_file.about(paths[0]) == {"rank": 2, "base": "ab"}


def test_names_and_shapes_are_the_published_ones(tmp_path, known):
  by_path = {layer.path: layer for layer in known}
  assert by_path[Q].names == (NEWER, OLDER)
  lora_file.write(tmp_path / "f", {Q: _change(by_path[Q])}, known, {})
  state = safetensors_file.read(tmp_path / "f")
  stem = "lora_unet_" + NEWER.replace(".", "_")
  size_in, size_out = by_path[Q].shape
  assert {name: array.shape for name, array in state.items()} == {
    f"{stem}.lora_down.weight": (2, size_in),
    f"{stem}.lora_up.weight": (size_out, 2), f"{stem}.alpha": (),
  }  # fmt: skip
  # LVDM's projections are published as Conv1d, and its names are of latent diffusion.
  own = lora_file.layers("lvdm", _shapes(lvdm.LVDM(tiny.config()), "diffusion"))
  lora_file.write(tmp_path / "g", {own[1].path: _change(own[1])}, own, {})
  state = safetensors_file.read(tmp_path / "g")
  assert state["lora_unet_input_blocks_1_1_qkv_s.lora_up.weight"].shape == (96, 2, 1)
  temporal = [layer for layer in known if "temporal_transformer" in layer.path]
  assert temporal and all("motion_modules" in layer.names[0] for layer in temporal)


@pytest.mark.parametrize(
  "stem, down, up",
  [
    ("lora_unet_" + NEWER.replace(".", "_"), "lora_down", "lora_up"),  # kohya, SD 1
    ("lora_unet_" + OLDER.replace(".", "_"), "lora_down", "lora_up"),
    (f"unet.{NEWER}", "lora_A", "lora_B"),  # diffusers
    (f"base_model.model.{NEWER}", "lora_A", "lora_B"),  # PEFT
    (f"unet.{OLDER}", "lora_A", "lora_B"),
  ],
)
def test_each_layout_is_read(tmp_path, known, stem, down, up):
  layer = next(layer for layer in known if layer.path == Q)
  change = _change(layer)
  state = {f"{stem}.{down}.weight": change.a.T, f"{stem}.{up}.weight": change.b.T}
  path = _write(tmp_path / "without", state)
  _same(lora_file.read(path, known), {Q: change._replace(alpha=2.0)})  # the rank
  path = _write(tmp_path / "with", {**state, f"{stem}.alpha": np.float32(3)})
  _same(lora_file.read(path, known), {Q: change})
  # A pointwise convolution's ones are no part of the map.
  widened = {name: array[..., None, None] for name, array in state.items()}
  path = _write(tmp_path / "ones", {**widened, f"{stem}.alpha": np.float32([3])})
  _same(lora_file.read(path, known), {Q: change})


def test_alpha_kept_apart_is_found(tmp_path, known):
  layer = next(layer for layer in known if layer.path == Q)
  a, b, _ = _change(layer)
  state = {
    f"unet.{NEWER}.lora_A.weight": a.T, f"unet.{NEWER}.lora_B.weight": b.T
  }  # fmt: skip
  said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 5, "unet.r": 2})}
  path = _write(tmp_path / "diffusers", state, said)
  assert lora_file.read(path, known)[Q].alpha == 5
  path = _write(tmp_path / "adapter_model.safetensors", state)
  settings = tmp_path / "adapter_config.json"
  settings.write_text(json.dumps({"lora_alpha": 7, "use_rslora": False}))
  assert lora_file.read(path, known)[Q].alpha == 7
  for odd in ("much", [7], True):
    settings.write_text(json.dumps({"lora_alpha": odd}))
    with pytest.raises(WeightsError, match="lora_alpha is .* a number is due"):
      lora_file.read(path, known)
  settings.write_text(json.dumps({"lora_alpha": 7, "use_rslora": True}))
  with pytest.raises(WeightsError, match="use_rslora"):
    lora_file.read(path, known)


def test_what_does_not_fit_is_listed_in_one_line(tmp_path, known):
  layer = next(layer for layer in known if layer.path == Q)
  a, b, _ = _change(layer)
  stem, other = "lora_unet_" + NEWER.replace(".", "_"), f"unet.{OLDER}"
  good = {f"{stem}.lora_down.weight": a.T, f"{stem}.lora_up.weight": b.T}
  without = lambda name: {k: v for k, v in good.items() if name not in k}
  cases = {
    "lora_te_text.lora_up.weight is unknown": {**good, "lora_te_text.lora_up.weight": b},
    "dora_scale is unknown": {**good, f"{stem}.dora_scale": a},
    "is there without lora_up": without("lora_up"),
    "is there without lora_down": without("lora_down"),
    "is there of alpha alone": {f"{stem}.alpha": np.float32(1)},
    "under another name too": {**good, f"{other}.lora_A.weight": a.T},
    "has shapes": {**good, f"{stem}.lora_down.weight": a},
    "alpha of": {**good, f"{stem}.alpha": np.ones(2, np.float32)},
    "is not finite": {**good, f"{stem}.lora_up.weight": b.T * np.inf},
    "it is empty": {},
  }
  for i, (message, state) in enumerate(cases.items()):
    path = _write(tmp_path / f"{i}.safetensors", state)
    with pytest.raises(WeightsError) as caught:
      lora_file.read(path, known)
    line = str(caught.value)
    assert message in line and line.startswith(f"{path}: ") and "\n" not in line
  with pytest.raises(WeightsError, match="does not exist"):
    lora_file.read(tmp_path / "absent.safetensors", known)
  with pytest.raises(WeightsError, match="no published name for a/b"):
    lora_file.write(tmp_path / "f", {("a", "b"): _change(layer)}, known, {})


def test_merging_adds_the_scaled_product(known):
  shapes = {layer.path: layer.shape for layer in known if layer.path in (Q, K)}
  draw = np.random.default_rng(1)
  params = keys.nest({
    (*path, "kernel"): draw.standard_normal(shape).astype(np.float32)
    for path, shape in shapes.items()
  })  # fmt: skip
  layer = next(layer for layer in known if layer.path == Q)
  change = _change(layer)
  same = lora_file.merged(params, {Q: change}, 0.0)
  new = keys.flatten(lora_file.merged(params, {Q: change}, 0.5))
  old = keys.flatten(params)
  for path, value in keys.flatten(same).items():
    assert value is old[path]
  # alpha 3, rank 2
  expected = old[(*Q, "kernel")].astype(np.float64) + 0.5 * 3 / 2 * (
    change.a.astype(np.float64) @ change.b
  )
  np.testing.assert_allclose(new[(*Q, "kernel")], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(new[(*K, "kernel")], old[(*K, "kernel")])
