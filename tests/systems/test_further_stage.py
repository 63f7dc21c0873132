# SPDX-License-Identifier: Apache-2.0
"""Stages trained further: which parameters move, and that they start as they were."""

import functools

import jax
import numpy as np
import pytest
import tiny

from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.systems import further_stage
from lamd_jax.systems import gen1
from lamd_jax.systems import lamd
from lamd_jax.systems import lvdm

SYSTEMS = {
  "lvdm": (lvdm.LVDM, tiny.config, "diffusion"),
  "text": (lvdm.LVDM, tiny.text_config, "diffusion"),
  "prediction": (lvdm.LVDM, tiny.config, "prediction"),
  "lamd": (lamd.LaMD, tiny.lamd_config, "motion_diffusion"),
  "gen1": (gen1.Gen1, tiny.gen1_config, "structure_levels"),
  "images": (gen1.Gen1, tiny.gen1_config, "image"),
}  # fmt: skip


@functools.cache
def _stage(which):
  system, config, name = SYSTEMS[which]
  stage = next(stage for stage in system(config()).stages() if stage.name == name)
  stage.init = functools.cache(stage.init)  # tracing it is what takes time here
  return stage


def _further(which, how):
  return further_stage.FurtherStage(_stage(which), how, 2, 4.0)


def _flat(tree):
  return {
    jax.tree_util.keystr(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize(
  "which, how, variants, trained",
  [
    ("lvdm", "full", ("video",), {"denoiser"}),
    ("text", "full", ("video",), {"denoiser", "text_encoder"}),
    ("lvdm", "temporal", ("video",), {"temporal"}),
    ("prediction", "lora", ("video",), {"lora"}),
    ("lamd", "lora", ("video",), {"lora"}),
    ("gen1", "full", ("video", "image"), {"denoiser", "projector", "temporal"}),
    ("gen1", "temporal", ("video",), {"temporal"}),
    ("images", "lora", ("image",), {"lora"}),
  ],
)
def test_what_is_trained(which, how, variants, trained):
  stage = _further(which, how)
  stage.check()
  assert stage.variants == variants
  assert {stage.variant_at(step) for step in range(64)} == set(variants)
  assert set().union(*(stage.trained(v) for v in variants)) == trained
  assert set(stage.averaged) == trained
  assert set(stage.init(None)[0]) == set(stage.groups)


@pytest.mark.parametrize("how", further_stage.HOW)
@pytest.mark.parametrize("which", ["lvdm", "gen1"])
def test_it_starts_as_the_stage_that_it_goes_on_from(which, how):
  stage = _further(which, how)
  base, extras = _stage(which).init(7)  # other numbers than those of `init` below
  params, _ = stage.start(*stage.init(0), {"params": base, "extras": extras})
  whole = stage.whole(params)
  old, new = _flat(base), _flat(whole)
  assert old.keys() == new.keys()
  for name, value in old.items():
    np.testing.assert_array_equal(new[name], value)
  if how == "temporal":
    assert all("temporal_" in name for name in _flat(params["temporal"]))
    assert not any("temporal_" in name for name in _flat(params["denoiser"]))


def test_changes_count_alpha_over_rank_where_they_are():
  stage = _further("gen1", "lora")
  base, extras = _stage("gen1").init(0)
  params, _ = stage.start(*stage.init(0), {"params": base, "extras": extras})
  block = params["lora"]["middle_attention"]
  temporal = block["temporal_transformer"]["self_attention"]["q"]
  spatial = block["spatial"]["cross_attention"]["k"]
  for change in (temporal, spatial):
    change["b"] = np.ones_like(change["b"])
  old, new = _flat(base), _flat(stage.whole(params))
  changed = {name for name in old if not np.array_equal(old[name], new[name])}
  middle = "['middle_attention']"
  of_time = (
    f"['temporal']{middle}['temporal_transformer']['self_attention']['q']['kernel']"
  )
  of_space = f"['denoiser']{middle}['spatial']['cross_attention']['k']['kernel']"
  assert changed == {of_time, of_space}
  expected = old[of_space] + 4 / 2 * spatial["a"] @ spatial["b"]
  np.testing.assert_allclose(new[of_space], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", ["lamd", "images"])
def test_a_network_without_temporal_layers_says_so(which):
  with pytest.raises(ConfigError, match="has no temporal layers; choose full or lora"):
    _further(which, "temporal").check()


def test_weights_of_another_network_are_refused():
  stage = _further("lvdm", "lora")
  base, extras = _stage("text").init(None)
  with pytest.raises(WeightsError, match="not those of its networks"):
    stage.start(*stage.init(None), {"params": base, "extras": extras})
