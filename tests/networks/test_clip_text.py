# SPDX-License-Identifier: Apache-2.0
"""CLIP's text tower against the numbers of transformers' CLIPTextModelWithProjection.

`fixtures/clip/text_tiny.npz` holds them; `fixtures/clip/make.py` says how they came.
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import clip_text as weights
from lamd_jax.interchange import fill
from lamd_jax.networks import clip_text
from lamd_jax.nn import initializers
from lamd_jax.nn import text_block

TINY = clip_text.ClipText(64, 32, 2, 4, 12, projection=24)


@pytest.fixture(scope="module")
def recorded(fixtures):
  return np.load(fixtures / "clip" / "text_tiny.npz")


@pytest.fixture(scope="module")
def params(recorded):
  names = [str(name) for name in recorded["keys"]]
  shapes = dict(zip(names, (tuple(json.loads(str(s))) for s in recorded["shapes"])))
  state = fill.state(shapes, dict(zip(names, recorded["norm_scale"])))
  sums = (dict(zip(names, recorded[k])) for k in ("w_sum", "w_sumsq"))
  assert not fill.unlike(state, *sums)
  return weights.to_params(state, TINY)


def _hidden(params, tokens, network=TINY):
  with jax.default_matmul_precision("highest"):
    return np.asarray(network.apply({"params": params}, tokens))


def _far(a, b):
  return np.abs(a - b).max() / np.abs(b).max()


def test_hidden_states_and_pooled_are_those_of_the_reference(params, recorded):
  hidden = _hidden(params, recorded["tokens"])
  assert hidden.dtype == np.float32
  assert _far(hidden, recorded["hidden"]) < 1e-5
  pooled = TINY.apply(
    {"params": params}, recorded["tokens"], hidden, method=TINY.pooled
  )
  assert _far(np.asarray(pooled), recorded["pooled"]) < 1e-5


def test_another_gelu_is_seen(params, recorded):
  for other in (jax.nn.gelu, text_block.exact_gelu):
    network = TINY.clone(activation=other)
    assert _far(_hidden(params, recorded["tokens"], network), recorded["hidden"]) > 1e-4


def test_exact_gelu_gives_openclips_numbers(params, recorded):
  # The same weights in transformers' tower with hidden_act="gelu", as H/14 has it.
  network = TINY.clone(activation=text_block.exact_gelu)
  hidden = _hidden(params, recorded["tokens"], network)
  assert _far(hidden, recorded["hidden_exact_gelu"]) < 1e-5
  pooled = network.apply(
    {"params": params}, recorded["tokens"], hidden, method=network.pooled
  )
  assert _far(np.asarray(pooled), recorded["pooled_exact_gelu"]) < 1e-5
  # tanh's approximation, JAX's default, is not it.
  other = _hidden(params, recorded["tokens"], TINY.clone(activation=jax.nn.gelu))
  assert _far(other, recorded["hidden_exact_gelu"]) > 2e-5


def test_a_missing_causal_mask_is_seen(params, recorded, monkeypatch):
  monkeypatch.setattr(clip_text, "HIDDEN", 0.0)
  assert _far(_hidden(params, recorded["tokens"]), recorded["hidden"]) > 1e-2


def test_swapped_projections_are_seen(params, recorded):
  # Square matrices, whose mistakes no shape shows.
  block = params["block_0"]
  swapped = {**block, "q": block["v"], "v": block["q"]}
  hidden = _hidden({**params, "block_0": swapped}, recorded["tokens"])
  assert _far(hidden, recorded["hidden"]) > 1e-3
  turned = {**block, "q": {**block["q"], "kernel": block["q"]["kernel"].T}}
  hidden = _hidden({**params, "block_0": turned}, recorded["tokens"])
  assert _far(hidden, recorded["hidden"]) > 1e-4


def test_quick_gelu_by_hand():
  # 1 / (1 + e^-1.702) and -2 / (1 + e^3.404)
  value = text_block.quick_gelu(jnp.array([0.0, 1.0, -2.0]))
  np.testing.assert_allclose(value, [0, 0.845796, -0.064341], rtol=1e-5)


def test_later_tokens_change_nothing_before_them(params, recorded):
  tokens = np.array(recorded["tokens"])
  tokens[:, 7:] = 3
  hidden, other = (_hidden(params, t) for t in (recorded["tokens"], tokens))
  np.testing.assert_array_equal(hidden[:, :7], other[:, :7])
  assert _far(hidden[:, 7:], other[:, 7:]) > 1e-2


def test_pooled_takes_the_first_end():
  bare = clip_text.ClipText(8, 4, 0, 1, 4)
  hidden = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
  tokens = np.array([[6, 7, 7, 7], [6, 1, 2, 7]])
  params = initializers.initialize(bare, 0, tokens)
  pooled = bare.apply(params, tokens, hidden, method=bare.pooled)
  np.testing.assert_array_equal(pooled, hidden[[0, 1], [1, 3]])


@pytest.mark.parametrize(
  "network, count",
  [
    (clip_text.VIT_L_14, 123_060_480),
    (clip_text.NETWORKS["l14"], 123_650_304),
    # Of the whole CLIPs' 151,277,313 and 986,109,441, less the image towers and a scale.
    (clip_text.NETWORKS["b32"], 63_428_096),
    (clip_text.NETWORKS["h14"], 354_032_640),
  ],
)
def test_full_size_has_the_published_count(network, count):
  leaves = jax.tree.leaves(weights.shapes(network))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count
  tokens = jax.ShapeDtypeStruct((2, 77), jnp.int32)
  variables = {"params": weights.shapes(network)}
  out = jax.eval_shape(network.apply, variables, tokens)
  assert out.shape == (2, 77, network.width) and out.dtype == jnp.float32


def test_half_precision_gives_float32_close_by(params, recorded):
  hidden = _hidden(params, recorded["tokens"], TINY.clone(dtype=jnp.bfloat16))
  assert hidden.dtype == np.float32
  assert 1e-4 < _far(hidden, recorded["hidden"]) < 0.05


def test_bad_tokens_are_seen(params):
  with pytest.raises(ValueError, match="13 tokens.*for 12"):
    _hidden(params, np.zeros((1, 13), np.int32))
  assert np.isnan(_hidden(params, np.array([[62, 64, 63]]))).any()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_random_weights_of_transformers(tmp_path, activation):
  """Its own file as it saves it, fresh random weights, another length."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  config = transformers.CLIPTextConfig(
    vocab_size=50, hidden_size=48, intermediate_size=192, num_hidden_layers=3,
    num_attention_heads=3, max_position_embeddings=9, eos_token_id=49, bos_token_id=48,
    hidden_act=activation,
  )  # fmt: skip
  model = transformers.CLIPTextModel(config).eval()
  with torch.no_grad():
    for value in model.parameters():
      value.add_(0.1 * torch.randn_like(value))
  model.save_pretrained(tmp_path)
  gelu = {"quick_gelu": text_block.quick_gelu, "gelu": text_block.exact_gelu}
  network = clip_text.ClipText(50, 48, 3, 3, 9, activation=gelu[activation])
  params = weights.load(tmp_path / "model.safetensors", network)
  tokens = np.random.default_rng(0).integers(0, 49, (4, 7))
  tokens[:, 4] = 49
  with torch.no_grad():
    out = model(torch.from_numpy(tokens))
  hidden = _hidden(params, tokens, network)
  assert _far(hidden, out.last_hidden_state.numpy()) < 1e-5
  pooled = network.apply({"params": params}, tokens, hidden, method=network.pooled)
  assert _far(np.asarray(pooled), out.pooler_output.numpy()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("quick", [False, True])
def test_random_weights_of_open_clip(quick):
  """OpenAI's layout with fused and square matrices, which shapes cannot tell apart."""
  torch = pytest.importorskip("torch")
  model_file = pytest.importorskip("open_clip.model")
  torch.manual_seed(0)
  vision = {"image_size": 8, "layers": 1, "width": 64, "head_width": 64, "patch_size": 4}
  text = {"context_length": 9, "vocab_size": 50, "width": 48, "heads": 3, "layers": 2}
  model = model_file.CLIP(48, vision, text, quick_gelu=quick).eval()
  with torch.no_grad():
    for value in model.parameters():
      value.add_(0.1 * torch.randn_like(value))
  state = {
    k: v.numpy() for k, v in model.state_dict().items()
    if not k.startswith(weights.OF_IMAGES)
  }  # fmt: skip
  gelu = text_block.quick_gelu if quick else text_block.exact_gelu
  network = clip_text.ClipText(50, 48, 2, 3, 9, projection=48, activation=gelu)
  params = weights.to_params(state, network)
  tokens = np.random.default_rng(0).integers(0, 48, (4, 9))
  tokens[:, 4], tokens[:, 5:] = 49, 0
  with torch.no_grad():
    expected = model.encode_text(torch.from_numpy(tokens)).numpy()

  def pooled(params):
    hidden = _hidden(params, tokens, network)
    with jax.default_matmul_precision("highest"):
      return np.asarray(
        network.apply({"params": params}, tokens, hidden, method=network.pooled)
      )

  assert _far(pooled(params), expected) < 1e-5
  turned = {**params, "projection_kernel": params["projection_kernel"].T}
  assert _far(pooled(turned), expected) > 1e-2
