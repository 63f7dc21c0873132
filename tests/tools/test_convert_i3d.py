# SPDX-License-Identifier: Apache-2.0
"""python -m lamd_jax.tools.convert i3d, on small files of the published forms."""

import json

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import i3d
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import i3d as network_file
from lamd_jax.tools import convert
from lamd_jax.tools import convert_i3d
import torch_writer

TINY = network_file.I3D(epsilon=1e-3, classes=5, divide=16, pool=1)


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)
  return keys.nest({
    path: np.ones(s.shape, "f4") if path[-1] == "scale" else rng.random(s.shape, "f4")
    for path, s in keys.flatten(i3d.shapes(TINY)).items()
  })


def test_all_forms_give_the_same_file(params, tmp_path, capsys):
  out = tmp_path / "out.safetensors"
  state = i3d.to_state(params)
  counted = {**state, "Mixed_3b.b0.bn.num_batches_tracked": np.zeros((), np.int64)}
  torch_writer.write_state(tmp_path / "a.pt", counted, older=True)
  torch_writer.write_state(
    tmp_path / "b.pth", i3d.to_state(params, "hassony2"), older=False
  )
  np.savez(tmp_path / "c.npz", **i3d.to_state(params, "sonnet"))
  safetensors_file.write(tmp_path / "d.safetensors", state, {})
  written = []
  for name, naming in [
    ("a.pt", "piergiaj"), ("b.pth", "hassony2"), ("c.npz", "sonnet"),
    ("d.safetensors", "piergiaj"),
  ]:  # fmt: skip
    convert_i3d.convert_i3d(tmp_path / name, out, TINY)
    assert f"read as {naming}" in capsys.readouterr().out
    record = json.loads((tmp_path / "out.safetensors.json").read_text())
    assert record["naming"] == naming and record["part"] == "i3d_kinetics400"
    written.append(out.read_bytes())
  assert len(set(written)) == 1
  for name, value in safetensors_file.read(out).items():
    np.testing.assert_array_equal(value, state[name], strict=True)


def test_wrong_sources_leave_no_output(params, tmp_path, capsys):
  source, out = tmp_path / "a.npz", tmp_path / "out.safetensors"
  np.savez(source, a=np.array([{}], object))
  with pytest.raises(WeightsError, match="without pickle"):
    convert_i3d.convert_i3d(source, out, TINY)
  source.write_bytes(source.read_bytes()[:-30])
  with pytest.raises(WeightsError, match="truncated"):
    convert_i3d.convert_i3d(source, out, TINY)
  # The published network is expected by the command: another width is refused.
  np.savez(source, **i3d.to_state(params, "sonnet"))
  assert convert.main(["i3d", f"--source={source}", f"--out={out}"]) == 4
  error = capsys.readouterr().err
  assert error.startswith(f"lamd_jax: {source}: ") and error.count("\n") == 1
  assert not out.exists()
