# SPDX-License-Identifier: Apache-2.0
"""The fill rule against the sums recorded by the reference implementation."""

import json

import numpy as np
import pytest

from lamd_jax.interchange import fill

NAMES = (
  "lvdm_unet_short_tiny",
  "lvdm_unet_t2v_tiny",
  "lvdm_ae_tiny",
  "lvdm_ae2d_tiny",
  "lvdm_losses_tiny",
)


def _recorded(path):
  with np.load(path, allow_pickle=False) as data:
    keys = [str(k) for k in data["keys"]]
    shapes = dict(zip(keys, map(tuple, json.loads(str(data["shapes"])))))
    names = ("norm_scale", "w_sum", "w_sumsq")
    columns = (dict(zip(keys, data[name].tolist())) for name in names)
    return shapes, *columns


@pytest.mark.parametrize("name", NAMES)
def test_filled_weights_have_the_recorded_sums(fixtures, name):
  shapes, norm_scale, sums, square_sums = _recorded(fixtures / "lvdm" / f"{name}.npz")
  filled = fill.state(shapes, norm_scale)
  assert fill.unlike(filled, sums, square_sums) == []


def test_a_changed_weight_is_named(fixtures):
  path = fixtures / "lvdm" / "lvdm_unet_short_tiny.npz"
  shapes, norm_scale, sums, square_sums = _recorded(path)
  filled = fill.state(shapes, norm_scale)
  filled["out.2.weight"] = -filled["out.2.weight"]
  assert fill.unlike(filled, sums, square_sums) == ["out.2.weight"]


def test_scalars_stay_scalar():
  assert fill.fill("logvar", (), False).shape == ()
