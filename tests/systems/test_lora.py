# SPDX-License-Identifier: Apache-2.0
"""Low-rank changes: where they go, and what they add."""

import numpy as np
import pytest
import tiny

from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_customise
from lamd_jax.systems import lora


def _params(rng):
  kernel = lambda *shape: {"kernel": rng.standard_normal(shape).astype(np.float32)}
  return {
    "in_conv": kernel(1, 3, 3, 4, 6),
    "down_1_attention": {
      "spatial": {
        "in": kernel(6, 6),
        "self_attention": {
          "q": kernel(6, 8), "out": {**kernel(8, 6), "bias": np.ones(6)}
        },
        "norm": {"scale": np.ones(6)},
      }
    },
    "feed_forward": kernel(6, 6),
  }


def test_changes_are_of_attention_alone_and_begin_as_nothing():
  params = _params(np.random.default_rng(0))
  changes = lora.init(params, 2, seed=0)
  inside = changes["down_1_attention"]["spatial"]
  assert set(changes) == {"down_1_attention"}
  assert inside["self_attention"]["q"]["a"].shape == (6, 2)
  assert inside["self_attention"]["q"]["b"].shape == (2, 8)
  assert np.std(inside["self_attention"]["q"]["a"]) > 0
  merged = lora.merge(params, changes, 1.0)
  np.testing.assert_array_equal(
    merged["down_1_attention"]["spatial"]["self_attention"]["q"]["kernel"],
    params["down_1_attention"]["spatial"]["self_attention"]["q"]["kernel"],
  )
  assert merged["in_conv"] is params["in_conv"]


def test_a_change_is_added_by_its_weight_and_biases_stay():
  params = _params(np.random.default_rng(0))
  changes = lora.init(params, 2, seed=0)
  change = changes["down_1_attention"]["spatial"]["self_attention"]["out"]
  change["b"] = np.arange(12, dtype=np.float32).reshape(2, 6)
  merged = lora.merge(params, changes, 0.5)
  out = merged["down_1_attention"]["spatial"]["self_attention"]["out"]
  old = params["down_1_attention"]["spatial"]["self_attention"]["out"]
  expected = old["kernel"] + 0.5 * change["a"] @ change["b"]
  np.testing.assert_allclose(out["kernel"], expected, rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(out["bias"], old["bias"])


@pytest.mark.parametrize(
  "how, variants, trained",
  [
    ("full", ("video", "image"), {"denoiser", "projector", "temporal"}),
    ("spatial", ("image",), {"denoiser", "projector"}),
    ("lora", ("image",), {"lora"}),
  ],
)
def test_what_each_way_trains(how, variants, trained):
  stage = gen1_customise.CustomStage(gen1.Gen1(tiny.gen1_config()), how, 2)
  assert stage.variants == variants and not stage.averaged
  assert set().union(*(stage.trained(v) for v in variants)) == trained
  assert {stage.variant_at(step) for step in range(8)} == set(variants)
  params, _ = stage.init(None)
  assert set(params) == set(stage.groups)
  # A run is sampled with the groups that it had before.
  if how == "lora":
    known = {f"{side}_attention" for side in ("self", "cross")}
    found = params["lora"]["middle_attention"]["spatial"]
    assert set(found) == known and set(found["self_attention"]) >= {"q", "k", "v"}
