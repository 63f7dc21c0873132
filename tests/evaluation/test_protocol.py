# SPDX-License-Identifier: Apache-2.0
"""Protocols are told apart by name and hash, and no score goes without one."""

import dataclasses

import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.evaluation import extractors
from lamd_jax.evaluation import mmd
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.evaluation import resize
from lamd_jax.evaluation.protocol import Protocol, Score


def test_all_presets_differ():
  presets = protocol_lib.PRESETS
  assert len({p.hash() for p in presets.values()}) == len(presets) == 35
  for name in (
    "tf2018", "styleganv_2048_16f", "styleganv_2048_128f", "styleganv_2048_128f_sub8",
    "lvdm", "tats", "pvdm_16f", "latte", "videogpt_bair", "cinn_bair",
    "cinn_landscape_16f", "bair_100", "cdfvd_videomae",
  ):  # fmt: skip
    assert presets[name].name == name


def test_presets_hold_the_published_settings():
  find = protocol_lib.find
  assert (find("tf2018").resize, find("tf2018").epsilon) == ("tf1_legacy", 1e-3)
  styleganv = find("styleganv_2048_128f_sub8")
  assert (styleganv.ddof, styleganv.stride, styleganv.frames) == (0, 8, 16)
  lvdm = find("lvdm")
  assert (lvdm.epsilon, lvdm.ddof, lvdm.crop, lvdm.fakes) == (1e-5, 1, "squash", 2048)
  assert find("pvdm_16f").crop == "centre" and find("lvdm_taichi").stride == 4
  latte = find("latte")
  assert (latte.stride, latte.fake_stride, latte.epsilon) == (3, 1, 1e-3)
  for preset in protocol_lib.PRESETS.values():
    assert preset.resize in (*resize.FLAVOURS, "none")
    assert preset.extractor in protocol_lib.TITLES


def test_every_field_moves_the_hash():
  base = Protocol("x")
  for field in dataclasses.fields(base):
    value = getattr(base, field.name)
    other = {str: "other", int: 7, float: 0.5, bool: not value}[type(value)]
    assert dataclasses.replace(base, **{field.name: other}).hash() != base.hash()


def test_features_are_shared_where_only_the_statistics_differ():
  base = Protocol("x")
  assert Protocol("y", ddof=0, reals=9).extraction_hash() == base.extraction_hash()
  for change in ({"epsilon": 1e-5}, {"resize": "tf1_legacy"}, {"frames": 9}):
    assert Protocol("x", **change).extraction_hash() != base.extraction_hash()


def test_a_changed_protocol_says_so():
  lvdm = protocol_lib.find("lvdm")
  changed = lvdm.changed({"reals": 64, "fakes": 64})
  assert changed.name == "lvdm+fakes=64+reals=64" and changed.hash() != lvdm.hash()
  assert lvdm.changed({}) is lvdm
  with pytest.raises(ConfigError, match="clips: not known; .*fakes"):
    lvdm.changed({"clips": 64})
  with pytest.raises(ConfigError, match="of another type"):
    lvdm.changed({"reals": "many"})
  with pytest.raises(ConfigError, match="--protocol=fvd: not known; .*tf2018"):
    protocol_lib.find("fvd")


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("lvdm", {"crop": "center"}, "crop=center: must be one of squash, centre"),
    ("lvdm", {"sampling": "randomly"}, "must be one of first, random, random_clips"),
    ("lvdm", {"extractor": "clip_b32"}, "must be one of i3d_kinetics400"),
    ("lvdm", {"mmd": "cubic"}, "must be one of unbiased_cubic"),
    ("lvdm", {"stride": 0}, "stride=0: must lie between 1"),
    ("lvdm", {"multiple": 0}, "multiple=0: must lie between 1"),
    ("lvdm", {"ddof": 2}, "ddof=2: must lie between 0 and 1"),
    # They would rename the score and change nothing.
    ("lvdm", {"root": "sqrtm"}, "has eigh float64, which cannot be changed"),
    ("lvdm", {"splits": 10}, "has 0, which cannot be changed"),
    ("is_tgan2", {"splits": 0}, "splits=0: must lie between 1"),
    ("pairs", {"resize": "half_pixel"}, "has none, which cannot be changed"),
    ("clip_b32", {"extractor": "clip_l14"}, "has clip_b32, which cannot be changed"),
  ],
)
def test_a_change_without_meaning_is_refused(name, change, message):
  with pytest.raises(ConfigError, match=message):
    protocol_lib.find(name).changed(change)


def test_words_that_fields_take_are_those_of_the_code():
  for field, known in (("resize", resize.FLAVOURS), ("mmd", mmd.FUNCTIONS)):
    for word in known:
      protocol_lib.find("lvdm").changed({field: word})
  for word in extractors.RANDOM:
    protocol_lib.find("lvdm").changed({"extractor": word})


def test_no_score_is_printed_without_its_protocol():
  lvdm = protocol_lib.find("lvdm")
  score = Score(lvdm.title("frechet"), 95.2, lvdm, 2048, 2048, (93.0, 97.5))
  expected = f"FVD 95.2 [93, 97.5] (lvdm {lvdm.hash()}, 2048 reals, 2048 fakes)"
  assert str(score) == f"{score}" == expected
  assert score.record()["protocol_hash"] == lvdm.hash()
  with pytest.raises(TypeError):
    float(score)
  with pytest.raises(TypeError, match="needs its protocol"):
    Score("FVD", 95.2, None, 2048, 2048)


def test_only_the_published_weights_give_an_fvd():
  for extractor, titles in protocol_lib.TITLES.items():
    named = any(title.startswith(("FVD", "KVD")) for title in titles)
    assert named == (extractor == "i3d_kinetics400")
