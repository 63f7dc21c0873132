# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the paper configs lies where the stored table says."""

from __future__ import annotations

import importlib.util
import math

import pytest

CONFIGS = ("lvdm_sky", "lvdm_webvid", "lamd_cater_gen_v1", "gen1_davis")


@pytest.fixture(scope="module")
def make(fixtures):
  path = fixtures / "partitions" / "make.py"
  spec = importlib.util.spec_from_file_location("make_partitions", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize("name", CONFIGS)
def test_partitions_are_those_of_the_table(fixtures, make, name):
  stored = (fixtures / "partitions" / f"{name}.tsv").read_text()
  changed = set(make.table(name).splitlines()) ^ set(stored.splitlines())
  assert not changed, f"run {make.__file__} if wanted:\n" + "\n".join(sorted(changed))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_stays_whole_is_small(fixtures, name):
  """What is too small to cut is at most a quarter of the parameters."""
  rows = (fixtures / "partitions" / f"{name}.tsv").read_text().splitlines()[1:]
  total = whole = 0
  for row in rows:
    _, shape, fsdp, _ = row.split("\t")
    size = math.prod(map(int, shape.split("x"))) if shape else 1
    total += size
    whole += size if "fsdp" not in fsdp else 0
  assert whole < 0.25 * total, f"{whole:,} of {total:,} parameters"
