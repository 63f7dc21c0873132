# SPDX-License-Identifier: Apache-2.0
"""DPT against transformers' DPTForDepthEstimation, with random weights.

`fixtures/dpt/tiny.npz` holds its numbers; `make.py` there made them.
"""

import functools
import json
import math

import dpt_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import dpt as weights
from lamd_jax.interchange import keys
from lamd_jax.networks import dpt

TINY = dpt.Dpt(
  32, 5, 4, taps=(0, 1, 3, 4), map_widths=(8, 12, 16, 20), features=24, size=64
)


@pytest.fixture(scope="module")
def recorded(fixtures):
  return np.load(fixtures / "dpt" / "tiny.npz")


def _params():
  expected = weights.shapes(TINY)
  shapes = keys.source_shapes(expected, weights.rules(expected))
  return weights.to_params(dpt_files.state(shapes), TINY)


@pytest.fixture(scope="module")
def params():
  return _params()


@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, pictures):
  return network.apply({"params": params}, pictures)


def _depth(params, size=(64, 64), network=TINY):
  with jax.default_matmul_precision("highest"):
    return np.asarray(_apply(network, params, dpt_files.pictures(*size)))


def _far(found, wanted):
  """The largest error, in parts of what the wanted numbers span; every third row."""
  return np.abs(found[:, ::3] - wanted).max() / np.ptp(wanted)


@pytest.mark.parametrize(
  "size",
  [*dpt_files.SIZES[:2], pytest.param(dpt_files.SIZES[2], marks=pytest.mark.slow)],
  ids=str,
)
def test_depth_is_that_of_the_reference(params, recorded, size):
  # At other sizes than 64x64 the positions are interpolated.
  found = _depth(params, size)
  assert found.shape == (2, *size) and found.dtype == np.float32
  assert _far(found, recorded[f"midas_{size[0]}x{size[1]}"]) < 1e-5


# These two show that the numbers above would tell; a program each.
@pytest.mark.slow
def test_the_epsilon_counts(params, recorded):
  # MiDaS's 1e-6 and the 1e-12 of transformers are two networks.
  found = _depth(params, network=TINY.clone(epsilon=1e-12))
  assert _far(found, recorded["transformers_64x64"]) < 1e-5
  assert _far(found, recorded["midas_64x64"]) > 1e-4


def test_mutations_are_seen(params, recorded):
  """Parts that have the same shape, one in the other's place; same program."""
  wanted = recorded["midas_64x64"]
  swap = lambda tree, a, b: {**tree, a: tree[b], b: tree[a]}
  block = params["block_3"]
  turned = params["positions"].copy()
  grid = turned[:, 1:].reshape(1, 4, 4, -1)
  turned[:, 1:] = grid.swapaxes(1, 2).reshape(1, 16, -1)
  flipped = params["resize_0"]["kernel"][:, :, ::-1, ::-1]
  fusion = params["fusion_1"]
  for mutated in (
    {**params, "block_3": swap(block, "q", "v")},
    {**params, "block_3": swap(block, "attention_norm", "dense_norm")},
    swap(params, "fusion_0", "fusion_3"),
    swap(params, "readout_1", "readout_2"),
    {**params, "fusion_1": swap(fusion, "unit_1", "unit_2")},
    {**params, "positions": turned},
    {**params, "resize_0": {**params["resize_0"], "kernel": flipped}},
  ):
    assert _far(_depth(mutated), wanted) > 1e-3


@pytest.mark.slow
def test_the_gelu_counts(params, recorded, monkeypatch):
  monkeypatch.setattr(dpt, "exact_gelu", jax.nn.gelu)
  pictures = dpt_files.pictures(64, 64)
  found = jax.jit(TINY.apply)({"params": params}, pictures)
  assert _far(np.asarray(found), recorded["midas_64x64"]) > 2e-5


def test_two_parts_take_no_part(params):
  # The transformer's last norm, and the deepest fusion's unit for a coarser map.
  ones = lambda tree: jax.tree.map(np.ones_like, tree)
  fusion = {**params["fusion_3"], "unit_1": ones(params["fusion_3"]["unit_1"])}
  other = {**params, "final_norm": ones(params["final_norm"]), "fusion_3": fusion}
  np.testing.assert_array_equal(_depth(other), _depth(params))


def test_full_size_has_the_published_count():
  expected = weights.shapes(dpt.DPT_LARGE)
  count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
  assert count(expected) == 343_030_465
  own = ("patch", "class_token", "positions", "block_", "final_norm")
  vit = {k: v for k, v in expected.items() if k.startswith(own)}
  assert count(vit) == 303_690_752
  apply = lambda p, x: dpt.DPT_LARGE.clone(dtype=jnp.bfloat16).apply({"params": p}, x)
  pictures = jax.ShapeDtypeStruct((2, 224, 384, 3), jnp.float32)
  out = jax.eval_shape(apply, expected, pictures)
  assert out.shape == (2, 224, 384) and out.dtype == jnp.float32


def test_sizes_between_are_refused():
  with pytest.raises(ValueError, match="48x64; sides are multiples of 32"):
    pictures = jax.ShapeDtypeStruct((1, 48, 64, 3), jnp.float32)
    jax.eval_shape(lambda p, x: TINY.apply({"params": p}, x), _params(), pictures)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_parity_with_transformers(seed, tmp_path):
  """Fresh random weights, through transformers' own file; no recorded numbers."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(seed)
  config = transformers.DPTConfig(
    hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=128,
    image_size=64, patch_size=16, backbone_out_indices=[0, 1, 3, 4],
    neck_hidden_sizes=[8, 12, 16, 20], fusion_hidden_size=24, layer_norm_eps=1e-6,
  )  # fmt: skip
  model = transformers.DPTForDepthEstimation(config).eval()
  with torch.no_grad():
    for name, p in model.named_parameters():
      p.copy_(torch.randn_like(p) * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
      if "layernorm" in name and name.endswith("weight"):
        p.add_(1)
    model.head.head[4].bias.fill_(5.0)
  model.save_pretrained(tmp_path)
  params = weights.load(tmp_path / "model.safetensors", TINY)
  for height, width in dpt_files.SIZES:
    pictures = dpt_files.pictures(height, width)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    with torch.no_grad():
      states = model.dpt(x, output_hidden_states=True).hidden_states[1:]
      taps = [states[i] for i in TINY.taps]
      wanted = model.head(model.neck(taps, height // 16, width // 16)).numpy()
    assert _far(_depth(params, (height, width)), wanted[:, ::3]) < 1e-5
  assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "dpt"
