# SPDX-License-Identifier: Apache-2.0
"""One form is traced where the mesh is known, all of them where it is not."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from lamd_jax.ops import platforms
from lamd_jax.training import sharding
from tests import absent_devices


@pytest.mark.parametrize(
  "around, expected",
  [
    (contextlib.nullcontext, {"tpu", "other"}),
    (lambda: jax.set_mesh(sharding.make_mesh("one")), {"other"}),
    (lambda: absent_devices.mesh("tpu"), {"tpu"}),
    (lambda: absent_devices.mesh("gpu"), {"other"}),
  ],
)
def test_forms_that_no_device_takes_are_not_traced(around, expected):
  seen = set()

  def form(name, factor):
    return lambda x: seen.add(name) or factor * x

  def function(x):
    return platforms.dependent(x, tpu=form("tpu", 3), default=form("other", 5))

  with around():
    traced = jax.jit(function).trace(jnp.float32(0))
  assert seen == expected
  if len(seen) > 1:  # then the lowered program holds its own
    programs = [
      traced.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cpu")
    ]
    assert ["3.0" in text for text in programs] == [True, False]
    assert ["5.0" in text for text in programs] == [False, True]
