# SPDX-License-Identifier: Apache-2.0
"""Our networks against the reference's numbers, and the program that compares them."""

import json

import numpy as np
import pytest

from lamd_jax.errors import DataError, WeightsError
from lamd_jax.tools import parity

NAMES = (
  "lvdm_unet_short_tiny",
  "lvdm_unet_short_norelpos",
  "lvdm_unet_kt3_noscaleshift",
  "lvdm_unet_resupdown",
  "lvdm_unet_pred_tiny",
  "lvdm_unet_t2v_tiny",
)
SHORT = NAMES[0]


@pytest.fixture(scope="module")
def folder(fixtures):
  return fixtures / "lvdm"


@pytest.fixture(scope="module")
def cases(folder):
  return parity.read_cases(folder)


def _load(folder, name):
  with np.load(folder / f"{name}.npz", allow_pickle=False) as data:
    return dict(data)


def test_video_autoencoder_computes_what_the_reference_does(folder, cases):
  errors = parity.run_case(folder, "lvdm_ae_tiny", cases["lvdm_ae_tiny"])
  assert set(errors) == {"output", "loss", "gradients"}
  assert max(errors.values()) < 2e-5


def test_image_autoencoder_computes_what_the_reference_does(folder, cases):
  errors = parity.run_case(folder, "lvdm_ae2d_tiny", cases["lvdm_ae2d_tiny"])
  assert set(errors) == {"output"}
  assert errors["output"] < 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_unet_computes_what_the_reference_does(folder, cases, name):
  errors = parity.run_case(folder, name, cases[name])
  assert set(errors) == {"output", "blocks", "loss", "gradients"}
  # The limit is 1e-4; gradient norms are about 1e-2, so the bound for them is tighter.
  assert errors.pop("gradients") < 1e-6
  assert max(errors.values()) < 2e-5


def test_every_recorded_block_is_compared(folder):
  data = _load(folder, SHORT)
  recorded = {k for k in data if k[:2] in ("in", "ou", "mi") or k == "time_embed"}
  modules = ["time_embedding", "in_conv", "middle_res_0", "middle_res_1"]
  modules += ["down_1_res", "down_2_resample", "down_3_attention", "down_3_res"]
  modules += ["up_0_res", "up_0_attention", "up_1_res", "up_1_attention"]
  modules += ["up_1_resample", "up_2_res", "up_3_res", "out_conv"]
  blocks = parity.unet_blocks({m: {"__call__": (m,)} for m in modules})
  assert set(blocks) == recorded
  assert blocks["in3"] == "down_3_attention"
  assert blocks["out1"] == "up_1_resample"
  assert blocks["mid"] == "middle_res_1"


def _copy(folder, cases, tmp_path, change):
  data = _load(folder, SHORT)
  change(data)
  np.savez(tmp_path / f"{SHORT}.npz", **data)
  (tmp_path / "cases.json").write_text(json.dumps({SHORT: cases[SHORT]}))
  return tmp_path


def test_the_program_passes_and_lists_what_no_case_covers(
  folder, cases, tmp_path, capsys
):
  _copy(folder, cases, tmp_path, lambda data: None)
  np.savez(tmp_path / "stray.npz", x=np.zeros(1))
  assert parity.main([str(tmp_path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(f"{SHORT}: ok  output ")
  assert lines[1:] == ["1 of 1 cases within 0.0001", "no case covers stray.npz"]


def test_each_changed_number_shows_in_its_own_error(folder, cases):
  data = _load(folder, SHORT)
  for field, entry in (("y", 5), ("grad_l2", 7), ("in3", 11)):
    data[field].ravel()[entry] += 2e-3
  settings = {k: v for k, v in cases[SHORT].items() if k != "kind"}
  errors = parity.run_unet(settings, data)
  assert errors.pop("loss") < parity.LIMIT
  assert min(errors.values()) > parity.LIMIT


@pytest.mark.parametrize("error", [1.1e-4, float("nan")])
def test_an_error_above_the_limit_fails_the_program(
  folder, cases, tmp_path, monkeypatch, capsys, error
):
  monkeypatch.setitem(parity.KINDS, "unet", lambda *_: {"output": error, "loss": 0.0})
  assert parity.main([str(_copy(folder, cases, tmp_path, lambda data: None))]) == 1
  assert f"{SHORT}: FAILED  output" in capsys.readouterr().out


def test_a_field_that_is_missing_is_named(folder, cases, tmp_path, capsys):
  def change(data):
    del data["target"]

  assert parity.main([str(_copy(folder, cases, tmp_path, change))]) == 1
  assert f"{SHORT}.npz or its entry in cases.json lacks 'target'" in (
    capsys.readouterr().out
  )


def test_relative_error_is_relative_above_one_only():
  assert parity.relative_error([3.0, 0.0], [4.0, 0.0]) == 0.25
  assert parity.relative_error([0.3], [0.4]) == pytest.approx(0.1)
  with pytest.raises(DataError, match=r"\(1,\).*\(2,\)"):
    parity.relative_error([1.0], [1.0, 2.0])


def test_weights_are_checked_before_anything_runs(folder):
  data = _load(folder, SHORT)
  data["w_sum"][3] += 1e-3
  with pytest.raises(WeightsError, match="time_embed.2.bias"):
    parity.filled_state(data)


def test_a_square_matrix_transposed_shows_in_the_numbers(folder, cases, monkeypatch):
  # What no check of shapes can see.
  filled = parity.filled_state

  def damaged(data):
    state = filled(data)
    state["time_embed.2.weight"] = state["time_embed.2.weight"].T
    return state

  monkeypatch.setattr(parity, "filled_state", damaged)
  assert parity.run_case(folder, SHORT, cases[SHORT])["output"] > parity.LIMIT


def test_a_folder_without_cases_or_with_a_strange_kind_says_so(tmp_path, capsys):
  assert parity.main([str(tmp_path)]) == 3
  assert "cases.json does not exist" in capsys.readouterr().err
  with pytest.raises(DataError, match="kind 'unett' is unknown"):
    parity.run_case(tmp_path, "x", {"kind": "unett"})
