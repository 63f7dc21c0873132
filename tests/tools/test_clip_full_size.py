# SPDX-License-Identifier: Apache-2.0
"""CLIP at its full sizes: transformers' own file, through the command, to its numbers.

The weights are random, biases and scales included: no published file is at hand here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import clip_image
from lamd_jax.interchange import clip_text
from lamd_jax.networks import clip_image as image_networks
from lamd_jax.networks import clip_text as text_networks
from lamd_jax.tools import convert

pytestmark = pytest.mark.slow
END = 49_407  # transformers looks for it by this id

# Width, layers, heads and width of the feed-forward layers, as published; of images
# also the patch. Both projections have the text's width.
SIZES = {
  "b32": ((512, 8, 12, 2048), (768, 12, 12, 3072), 32, "quick_gelu"),
  "l14": ((768, 12, 12, 3072), (1024, 16, 24, 4096), 14, "quick_gelu"),
  "h14": ((1024, 16, 24, 4096), (1280, 16, 32, 5120), 14, "gelu"),
}


def _published(torch, transformers, text, image, patch, activation):
  names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
  common = {"hidden_act": activation, "projection_dim": text[0]}
  config = transformers.CLIPConfig(
    text_config={
      **dict(zip(names, text)), **common, "bos_token_id": END - 1, "eos_token_id": END,
    },
    vision_config={**dict(zip(names, image)), **common, "patch_size": patch},
    projection_dim=text[0],
  )  # fmt: skip
  torch.manual_seed(0)
  model = transformers.CLIPModel(config).eval()
  with torch.no_grad():
    for value in model.parameters():
      value.add_(0.01 * torch.randn_like(value))
  return model


def _far(ours, theirs):
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def _converted(what, network, folder):
  """The tower out of what transformers saved, by the command."""
  source, out = folder / "model.safetensors", folder / f"{what}.safetensors"
  arguments = [f"--network={network}", f"--source={source}", f"--out={out}"]
  assert convert.main([what, *arguments]) == 0
  return out


def _reference(folder, name, pictures, tokens):
  """Saves a model as transformers does; returns its features of pictures and of texts."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = _published(torch, transformers, *SIZES[name])
  model.save_pretrained(folder)
  with torch.no_grad():
    seen = model.get_image_features(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    read = model.get_text_features(torch.from_numpy(tokens))
  return seen.pooler_output.numpy(), read.pooler_output.numpy()


@pytest.mark.parametrize("name", SIZES)
def test_both_towers_are_the_references(name, tmp_path):
  random = np.random.default_rng(0)
  pictures = random.standard_normal((2, 224, 224, 3)).astype(np.float32)
  tokens = random.integers(0, END - 1, (2, 77))
  tokens[:, 20:] = END
  seen, read = _reference(tmp_path, name, pictures, tokens)

  path = _converted("clip-image", name, tmp_path)
  network = image_networks.NETWORKS[name]
  params = {"params": clip_image.load(path, network)}
  assert _far(jax.jit(network.apply)(params, jnp.asarray(pictures)), seen) < 1e-5
  del params  # H/14 has gigabytes

  path = _converted("clip", name, tmp_path)
  network = text_networks.NETWORKS[name]
  params = {"params": clip_text.load(path, network)}
  tokens = jnp.asarray(tokens, jnp.int32)
  hidden = jax.jit(network.apply)(params, tokens)
  assert _far(network.apply(params, tokens, hidden, method="pooled"), read) < 1e-5
