"""Sizes of the motion generator against the formula of the specification, section 7."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import types
from lamd_jax.nn import initializers
from lamd_jax.systems import lamd_blocks

SETTINGS = dict(
  res_blocks=2, heads=8, head_channels=32, scale_shift_norm=False,
  resblock_updown=False,
)  # fmt: skip


def count(channels, mult, attention, width, inputs, outputs=3, **changes):
  settings = dict(
    SETTINGS, channels=channels, channel_mult=mult, attention_downsample=attention,
    **changes,
  )  # fmt: skip
  network = lamd_blocks.unet(settings, outputs, num_classes=0, remat="none")
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  concat = shape(1, 1, 16, 16, inputs - outputs) if inputs > outputs else None
  conditions = types.Conditions(context=shape(1, 7, width), concat=concat)
  z = shape(1, 1, 16, 16, outputs)
  shapes = initializers.shapes(network, z, shape(1), conditions)
  return sum(x.size for x in jax.tree.leaves(shapes))


PAPER = (224, (1, 2, 3, 4), (1, 2, 4))


# Source: the table of lamd.md, section 7; computed there by a formula that gives the
# 859,520,964 parameters of Stable Diffusion 1.
@pytest.mark.parametrize(
  "arguments, expected",
  [
    ((*PAPER, 768, 3), 339_837_795),
    ((*PAPER, 768, 67), 339_966_819),
    ((*PAPER, 512, 3), 335_938_403),
    ((*PAPER, 512, 67), 336_067_427),
    ((224, (1, 2, 3, 4), (2, 4, 8), 768, 3), 420_333_315),
    ((192, (1, 2, 2, 4, 4), (2, 4, 8), 512, 3), 344_648_835),
    ((64, (1, 2, 4), (1, 2, 4), 128, 67), 24_783_427),
    ((96, (1, 2, 4), (1, 2, 4), 128, 67), 55_195_491),
    ((160, (1, 2, 4), (1, 2, 4), 512, 67), 156_852_643),
  ],
)
def test_sizes(arguments, expected):
  assert count(*arguments) == expected


def test_the_same_parts_are_stable_diffusion_1_s_unet():
  # 860M as published; the count of its checkpoint's tensors.
  sizes = (320, (1, 2, 4, 4), (1, 2, 4), 768, 4)
  assert count(*sizes, outputs=4, head_channels=0) == 859_520_964


def _conditioner(**changes):
  settings = dict(
    concat_channels=0, context_width=8, attends_content=False, content_pool=1,
    num_classes=0,
  )  # fmt: skip
  return lamd_blocks.Conditioner(**{**settings, **changes})


CONTENT = np.random.default_rng(0).normal(size=(2, 1, 4, 4, 6)).astype(np.float32)


def _run(network, label=None, text=None):
  variables = initializers.initialize(network, 0, CONTENT, label, text)
  return variables.get("params", {}), network.apply(variables, CONTENT, label, text)


def test_content_by_concat_is_a_pointwise_map():
  params, found = _run(_conditioner(concat_channels=5))
  joined = params["joined"]
  expected = CONTENT @ joined["kernel"] + joined["bias"]
  np.testing.assert_allclose(found.concat, expected, rtol=1e-5, atol=1e-6)
  assert found.context is None and found.label is None


def test_tokens_are_content_class_and_text_in_this_order():
  text = np.full((2, 3, 8), 7.0, np.float32)
  label = np.array([0, 4], np.int32)
  network = _conditioner(attends_content=True, content_pool=2, num_classes=5)
  params, found = _run(network, label, text)
  assert found.context.shape == (2, 4 + 1 + 3, 8)
  np.testing.assert_array_equal(found.context[:, 5:], text)
  np.testing.assert_allclose(found.context[:, 4], params["class_token"]["table"][label])
  first = CONTENT[:, 0, :2, :2].mean((1, 2)) @ params["attended"]["kernel"]
  np.testing.assert_allclose(
    found.context[:, 0], first + params["attended"]["bias"], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_array_equal(found.label, label)


def test_nothing_is_asked_of_cross_attention_without_tokens():
  network = lamd_blocks.unet(
    dict(SETTINGS, channels=32, channel_mult=(1,), attention_downsample=(1,)), 3,
    num_classes=0, remat="none",
  )  # fmt: skip
  z = jax.ShapeDtypeStruct((1, 1, 4, 4, 3), jnp.float32)
  t = jax.ShapeDtypeStruct((1,), jnp.float32)
  params = initializers.shapes(network, z, t, types.Conditions())["params"]
  assert "cross_attention" not in params["middle_attention"]
