# SPDX-License-Identifier: Apache-2.0
"""The skeleton: its wiring, with blocks of our own; what enters; rematerialisation.

That it computes what the reference does is tested in tools/test_parity.py.
"""

import functools

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import types
from lamd_jax.networks.unet import UNet
from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Conv, Dense
from lamd_jax.nn.resample import average_down, nearest_up

RESAMPLE = {None: lambda x: x, "up": nearest_up, "down": average_down}


class PlainRes(nn.Module):
  """A block from outside: convolution, and the embedding added."""

  features: int
  resample: str | None

  @nn.compact
  def __call__(self, x, emb, mode):
    h = RESAMPLE[self.resample](jnp.tanh(x))
    h = checkpoint_name(Conv(self.features, (1, 1, 1), name="conv")(h), "conv")
    emb = Dense(self.features, name="embedding")(emb)
    return jnp.tanh(h + emb.reshape(emb.shape[0], -1, 1, 1, self.features))


class PlainAttention(nn.Module):
  """A block from outside: the mean token added, and time mixed unless bypassed."""

  @nn.compact
  def __call__(self, x, context, mode):
    if context is not None:
      token = Dense(x.shape[-1], name="context")(context.mean(1))
      x = x + token[:, None, None, None]
    if mode == "video":
      x = x + Dense(x.shape[-1], name="temporal_mix")(x.mean(1, keepdims=True))
    return x


def _unet(**changes):
  settings = dict(
    out_channels=3,
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_downsample=(2,),
    res_block=PlainRes,
    attention_block=PlainAttention,
    resblock_updown=False,
    temporal_kernel=1,
    noise_level_classes=0,
    num_classes=0,
    remat="none",
  )
  return UNet(**{**settings, **changes})


Z = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 3)).astype(np.float32)
T = np.array([3.0, 500.5], np.float32)
NONE = types.Conditions()


def _params(unet, conditions=NONE, z=Z):
  params = initializers.initialize(unet, 0, z, T, conditions)["params"]
  rng = np.random.default_rng(1)
  # The last convolution starts at zero; outputs must differ to be compared.
  kernel = params["out_conv"]["kernel"]
  params["out_conv"]["kernel"] = rng.standard_normal(kernel.shape).astype(np.float32)
  return params


def _apply(unet, params, z=Z, t=T, conditions=NONE, mode="video"):
  run = jax.jit(lambda p, z, t, c: unet.apply({"params": p}, z, t, c, mode))
  return np.asarray(run(params, z, t, conditions))


def test_modules_stand_where_the_plan_says():
  unet = _unet(channel_mult=(1, 2, 3), attention_downsample=(2,), res_blocks=2)
  shapes = initializers.shapes(unet, Z, T, NONE)["params"]
  attention = {"down_4", "down_5", "middle", "up_3", "up_4", "up_5"}
  assert {k[: -len("_attention")] for k in shapes if "attention" in k} == attention
  resample = {"down_3_resample", "down_6_resample", "up_2_resample", "up_5_resample"}
  assert {k for k in shapes if "resample" in k} == resample
  res = {f"down_{i}" for i in (1, 2, 4, 5, 7, 8)} | {f"up_{i}" for i in range(9)}
  assert {k[: -len("_res")] for k in shapes if k.endswith("_res")} == res
  # The last level down joins the deepest skip; the first block up reads 96 + 96.
  assert shapes["up_0_res"]["conv"]["kernel"].shape[-2:] == (192, 96)
  assert shapes["up_8_res"]["conv"]["kernel"].shape[-2:] == (64, 32)


def test_resblocks_resample_when_asked():
  shapes = initializers.shapes(_unet(resblock_updown=True), Z, T, NONE)["params"]
  assert set(shapes["down_2_resample"]) == set(shapes["up_1_resample"]) == {
    "conv",
    "embedding",
  }
  plain = initializers.shapes(_unet(), Z, T, NONE)["params"]
  assert set(plain["down_2_resample"]) == {"conv"}


def test_channels_join_in_order_and_keep_zeroes_rows():
  rng = np.random.default_rng(2)
  concat = rng.standard_normal((2, 3, 4, 4, 2)).astype(np.float32)
  mask = np.array([[1, 0, 1], [0, 1, 1]], np.float32)[..., None, None, None]
  given = types.Conditions(concat=concat, mask=mask)
  unet = _unet()
  params = _params(unet, given)
  out = _apply(unet, params, conditions=given)

  wide_mask = np.broadcast_to(mask, (2, 3, 4, 4, 1))
  joined = np.concatenate([Z, concat, wide_mask], -1)
  np.testing.assert_allclose(_apply(unet, params, z=joined), out, atol=1e-5)

  flags = {"mask": np.array([0, 1], np.float32), "concat": np.array([1, 0], np.float32)}
  dropped = _apply(unet, params, conditions=given._replace(keep=flags))
  by_hand = joined.copy()
  by_hand[0, ..., 5:] = 0
  by_hand[1, ..., 3:5] = 0
  np.testing.assert_allclose(dropped, _apply(unet, params, z=by_hand), atol=1e-5)
  assert np.abs(dropped - out).max() > 1e-3


def test_embeddings_add_and_keep_takes_them_away():
  unet = _unet(noise_level_classes=4, num_classes=3)
  params = _params(unet)  # without classes: the tables are there all the same
  given = types.Conditions(noise_level=np.array([1, 3]), label=np.array([2, 0]))
  out = _apply(unet, params, conditions=given)
  flags = {"noise_level": np.array([0.0, 1.0]), "label": np.array([0.0, 1.0])}
  dropped = _apply(unet, params, conditions=given._replace(keep=flags))
  without = _apply(unet, params)
  np.testing.assert_allclose(dropped[0], without[0], atol=1e-5)
  np.testing.assert_allclose(dropped[1], out[1], atol=1e-5)
  assert np.abs(out - without).max((1, 2, 3, 4)).min() > 1e-3
  one = types.Conditions(label=given.label)
  assert np.abs(_apply(unet, params, conditions=one) - out).max() > 1e-3


def test_time_per_frame():
  unet = _unet(attention_downsample=(), noise_level_classes=4)
  conditions = types.Conditions(noise_level=np.array([1, 3]))
  params = _params(unet, conditions)
  # Leave the attention of the middle out, so that frames stay apart.
  run = functools.partial(_apply, unet, params, conditions=conditions, mode="image")
  per_clip = run()
  frames = np.repeat(T[:, None], 3, 1)
  np.testing.assert_allclose(run(t=frames), per_clip, atol=1e-5)


def test_context_reaches_the_attention_blocks_and_image_mode_bypasses():
  context = np.random.default_rng(3).standard_normal((2, 5, 7)).astype(np.float32)
  given = types.Conditions(context=context)
  unet = _unet()
  params = _params(unet, given)
  out = _apply(unet, params, conditions=given)
  other = types.Conditions(context=context + 1)
  assert np.abs(_apply(unet, params, conditions=other) - out).max() > 1e-3
  drop = lambda tree: {
    k: drop(v) if isinstance(v, dict) else v
    for k, v in tree.items()
    if not k.startswith("temporal_")
  }
  image = _apply(unet, drop(params), conditions=given, mode="image")
  assert np.abs(image - out).max() > 1e-3


def test_bfloat16_computes_in_it_and_returns_float32():
  params = _params(_unet())
  out = _apply(_unet(dtype=jnp.bfloat16), params)
  exact = _apply(_unet(), params)
  assert out.dtype == np.float32
  error = np.abs(out - exact).max() / np.abs(exact).max()
  assert 1e-4 < error < 5e-2  # above: it was really bfloat16


def test_remat_changes_no_gradient_and_recomputes_what_it_says():
  shallow = functools.partial(_unet, channel_mult=(1,), attention_downsample=())
  params = _params(shallow())

  def gradient(remat):
    unet = shallow(remat=remat)
    loss = lambda p: jnp.square(unet.apply({"params": p}, Z, T, NONE)).mean()
    return jax.grad(loss)

  # Each runs once, so compile fast.
  jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
  )
  exact = jit(gradient("none"))(params)
  products = {}
  for remat in ("none", "full", "names"):
    if remat != "none":
      for a, b in zip(*map(jax.tree.leaves, (jit(gradient(remat))(params), exact))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    text = str(jax.make_jaxpr(gradient(remat))(params))
    products[remat] = text.count("conv_general_dilated[") + text.count("dot_general[")
  # "full" runs the convolutions of the blocks twice, "names" keeps their results.
  assert products["full"] > products["names"]
  assert "checkpoint[" not in str(jax.make_jaxpr(gradient("none"))(params))


@pytest.mark.parametrize("remat", ["full", "names"])
def test_remat_changes_no_parameter(remat):
  assert initializers.shapes(_unet(remat=remat), Z, T, NONE) == initializers.shapes(
    _unet(), Z, T, NONE
  )


@pytest.mark.parametrize(
  "changes, arguments, message",
  [
    ({}, dict(z=Z[:, :, :3]), "latents of 3x4 .* divisible by 2"),
    ({}, dict(mode="film"), "mode is 'film'"),
    ({"remat": "some"}, {}, "remat is 'some'"),
    (
      {},
      dict(conditions=types.Conditions(label=np.zeros(2, np.int32))),
      "conditions.label is given",
    ),
    (
      {},
      dict(conditions=types.Conditions(keep={"context": np.ones(2)})),
      r"keep has flags \['context'\]",
    ),
  ],
)
def test_misuse_is_one_clear_error(changes, arguments, message):
  unet = _unet(**changes)
  z = arguments.pop("z", Z)
  conditions = arguments.pop("conditions", NONE)
  with pytest.raises(ValueError, match=message):
    initializers.shapes(unet, z, T, conditions, **arguments)
