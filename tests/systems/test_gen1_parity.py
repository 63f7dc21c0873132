# SPDX-License-Identifier: Apache-2.0
"""The image model against diffusers' UNet with random weights; needs torch.

Expected numbers, names and shapes come from diffusers as it runs here. Whoever has not
installed it skips this file.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.loaders import single_file_utils

from lamd_jax import types
from lamd_jax.interchange import keys
from lamd_jax.interchange import sd_unet
from lamd_jax.nn import initializers
from lamd_jax.systems import gen1_blocks
from lamd_jax.tools import convert_sd_unet

pytestmark = pytest.mark.slow

# Two channels or more a group: of one alone the norm takes out what a bias puts in, and
# the bias's gradient is nothing but rounding.
TINY = dict(
  gen1_blocks.STABLE_DIFFUSION_1, channels=64, channel_mult=(1, 2, 2), res_blocks=2,
  attention_downsample=(1, 2), heads=4, temporal_layers=True, frame_positions=4,
)  # fmt: skip
# diffusers' word for the number of heads is attention_head_dim.
THEIRS = dict(
  in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(64, 128, 128),
  down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
  attention_head_dim=4, cross_attention_dim=24, norm_num_groups=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
  torch.manual_seed(0)
  unet = diffusers.UNet2DConditionModel(**THEIRS).eval()
  with torch.no_grad():
    for value in unet.parameters():  # norms and biases included
      value.add_(0.1 * torch.randn_like(value))
  return unet


@pytest.fixture(scope="module")
def inputs():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return draw(2, 3, 8, 8, 4), np.array([3.0, 981.0], np.float32), draw(2, 5, 24)


@pytest.fixture(scope="module")
def loaded(model, inputs, tmp_path_factory):
  """Ours, with the weights of the file that diffusers saves."""
  folder = tmp_path_factory.mktemp("unet")
  model.save_pretrained(folder)
  network = gen1_blocks.unet(TINY, 4, remat="none")
  z, t, context = inputs
  conditions = types.Conditions(context=context)
  initial = initializers.initialize(network, 0, z, t, conditions)["params"]
  file = folder / "diffusion_pytorch_model.safetensors"
  return network, sd_unet.load(file, initial)


def _theirs(model, inputs):
  """Frame by frame: [B*T,4,H,W] with the clip's time and context for each frame."""
  z, t, context = inputs
  frames = z.reshape(-1, *z.shape[2:]).transpose(0, 3, 1, 2)
  with torch.no_grad():
    out = model(
      torch.from_numpy(np.ascontiguousarray(frames)),
      torch.from_numpy(np.repeat(t, 3)),
      torch.from_numpy(np.repeat(context, 3, 0)),
    )
  return out.sample.numpy().transpose(0, 2, 3, 1).reshape(z.shape)


def _ours(loaded, params, inputs, mode):
  z, t, context = inputs
  conditions = types.Conditions(context=context)
  with jax.default_matmul_precision("highest"):
    out = loaded[0].apply({"params": params}, z, t, conditions, mode)
  return np.asarray(out)


def _error(found, expected):
  return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("mode", ("image", "video"))
def test_outputs_agree(model, loaded, inputs, mode):
  expected = _theirs(model, inputs)
  assert np.abs(expected).max() > 0.1
  assert _error(_ours(loaded, loaded[1], inputs, mode), expected) < 1e-5


def test_a_transposed_square_or_swapped_branches_show(model, loaded, inputs):
  expected = _theirs(model, inputs)
  state = sd_unet.to_state(loaded[1], "diffusers")
  at = "mid_block.attentions.0.transformer_blocks.0.attn1"
  query, value = f"{at}.to_q.weight", f"{at}.to_v.weight"
  swapped = {query: state[value], value: state[query]}
  for change in ({query: state[query].T}, swapped):
    params = sd_unet.to_params({**state, **change}, loaded[1])
    assert _error(_ours(loaded, params, inputs, "image"), expected) > 1e-4


def test_gradients_agree(model, loaded, inputs):
  """Of the output's inner product with fixed numbers, in the input and all weights."""
  z, t, context = inputs
  weight = np.random.default_rng(1).standard_normal(z.shape).astype(np.float32)
  frames = torch.from_numpy(
    np.ascontiguousarray(z.reshape(-1, *z.shape[2:]).transpose(0, 3, 1, 2))
  ).requires_grad_()
  model.zero_grad()
  out = model(
    frames, torch.from_numpy(np.repeat(t, 3)), torch.from_numpy(np.repeat(context, 3, 0))
  ).sample
  of = torch.from_numpy(weight.reshape(-1, *z.shape[2:]).transpose(0, 3, 1, 2).copy())
  (out * of).sum().backward()

  def inner(params, z):
    conditions = types.Conditions(context=context)
    out = loaded[0].apply({"params": params}, z, t, conditions, "image")
    return (out * weight).sum()

  with jax.default_matmul_precision("highest"):
    by_params, by_z = jax.jit(jax.grad(inner, argnums=(0, 1)))(loaded[1], jnp.asarray(z))
  expected = frames.grad.numpy().transpose(0, 2, 3, 1).reshape(z.shape)
  assert _error(np.asarray(by_z), expected) < 1e-5
  found = sd_unet.to_state(jax.device_get(by_params), "diffusers")
  for name, value in model.named_parameters():
    assert _error(found[name], value.grad.numpy()) < 1e-4, name


@pytest.fixture(scope="module")
def published():
  """Stable Diffusion 1's UNet of diffusers, its shapes alone."""
  with torch.device("meta"):
    return diffusers.UNet2DConditionModel(
      block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768,
      attention_head_dim=8, layers_per_block=2, in_channels=4, out_channels=4,
    )  # fmt: skip


def test_names_and_shapes_at_full_size_are_theirs(published):
  full = convert_sd_unet.released()
  found = keys.source_shapes(full, sd_unet.rules(full, "diffusers"))
  expected = {name: tuple(v.shape) for name, v in published.state_dict().items()}
  assert found == expected


def test_their_converter_takes_latent_diffusion_s_names_to_the_same(published):
  # Each tensor is its own number in the list, so that the two maps can be compared.
  full = convert_sd_unet.released()
  ldm = sd_unet.rules(full, "ldm")
  state = {
    f"model.diffusion_model.{rule.source}": torch.tensor(float(i))
    for i, rule in enumerate(ldm)
  }
  config = dict(published.config)
  converted = single_file_utils.convert_ldm_unet_checkpoint(dict(state), config)
  theirs = {rule.path: rule.source for rule in sd_unet.rules(full, "diffusers")}
  expected = {theirs[rule.path]: float(i) for i, rule in enumerate(ldm)}
  assert {name: float(value) for name, value in converted.items()} == expected
