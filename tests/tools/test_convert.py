# SPDX-License-Identifier: Apache-2.0
"""python -m lamd_jax.tools.convert on files of the published shape and format."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from lamd_jax.interchange import keys
from lamd_jax.interchange import perceptual
from lamd_jax.networks import perceptual as network
from lamd_jax.tools import conversion
from lamd_jax.tools import convert
import torch_writer


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """The two files: older format, classifier included; values are a ramp."""
  folder = tmp_path_factory.mktemp("published")
  shapes = keys.source_shapes(network.shapes(), perceptual.rules())
  state = {k: np.linspace(0, 1, np.prod(s), dtype="f4").reshape(s)
           for k, s in shapes.items()}  # fmt: skip
  vgg = {k: v for k, v in state.items() if k.startswith("features")}
  lins = {k: v for k, v in state.items() if k.startswith("lin")}
  classifier = {name: np.zeros(3, "f4") for name in perceptual.IGNORED}
  vgg_file, lins_file = folder / "vgg16.pth", folder / "vgg.pth"
  torch_writer.write_state(vgg_file, {**vgg, **classifier}, older=True)
  torch_writer.write_state(lins_file, lins, older=True)
  return vgg_file, lins_file, state


def _call(vgg, lins, out, *more):
  return convert.main(
    ["lpips", f"--vgg={vgg}", f"--lins={lins}", f"--out={out}", *more]
  )


def _sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def test_converts_and_keeps_a_record(published, tmp_path, capsys):
  vgg, lins, state = published
  out = tmp_path / "lpips_vgg16.safetensors"
  assert _call(vgg, lins, out, "--any-file") == 0
  said = capsys.readouterr().out
  for path in (vgg, lins, out):
    assert f"{_sha256(path)}  {path}" in said
  assert "BSD-2" in said and "torchvision" in said and "classifier.6.bias" in said

  again = perceptual.to_state(perceptual.load(out))
  for name, value in state.items():
    np.testing.assert_array_equal(again[name], value, strict=True)

  record = json.loads((tmp_path / f"{out.name}.json").read_text())
  assert [s["sha256"] for s in record["sources"]] == [_sha256(vgg), _sha256(lins)]
  assert [s["as_published"] for s in record["sources"]] == [False, False]
  assert record["output"]["sha256"] == _sha256(out)
  assert record["converter"] == conversion.CONVERTER_VERSION
  assert record["keys"]["lin2.model.1.weight"] == "lins/2"
  assert record["not_used"] == list(perceptual.IGNORED)
  assert len(list(tmp_path.iterdir())) == 2


def _refused(capsys, *arguments):
  """Returns the exit code and the one line of a refused call."""
  code = _call(*arguments)
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  return code, error


def test_other_files_than_the_published_are_refused(
  published, tmp_path, capsys, monkeypatch
):
  vgg, lins, _ = published
  out = tmp_path / "x.safetensors"
  code, error = _refused(capsys, vgg, lins, out)
  assert code == 4 and "starts 397923af" in error and str(vgg) in error
  digest = _sha256(vgg)
  monkeypatch.setattr(convert, "VGG", conversion.Source("", digest[:8]))
  code, error = _refused(capsys, vgg, lins, out)
  assert code == 4 and "the published one has 7289" in error and str(lins) in error
  monkeypatch.setattr(convert, "LINS", conversion.Source("", "", lins.stat().st_size))
  assert _call(vgg, lins, out) == 0


def test_wrong_sources_leave_no_output(published, tmp_path, capsys):
  vgg, lins, state = published
  out = tmp_path / "x.safetensors"
  small = tmp_path / "small.pth"
  names = [f"lin{i}.model.1.weight" for i in range(5)]

  def case(arrays):
    torch_writer.write_state(small, arrays, older=False)
    return _refused(capsys, vgg, small, out, "--any-file")

  whole = {name: state[name] for name in names}
  code, error = case({k: v for k, v in whole.items() if k != names[1]})
  assert code == 4 and error == f"lamd_jax: {small}: {names[1]} is missing\n"
  code, error = case({**whole, "lin5.model.1.weight": state[names[0]]})
  assert code == 4 and error == f"lamd_jax: {small}: lin5.model.1.weight is unused\n"
  code, error = case({**whole, names[0]: state[names[1]]})
  assert code == 4 and f"{names[0]} has shape (1, 128, 1, 1)" in error
  code, error = case({**whole, names[0]: -state[names[0]]})
  assert code == 4 and "negative" in error
  code, error = _refused(capsys, lins, vgg, out, "--any-file")
  assert code == 4 and "features.0.bias is missing" in error
  small.write_bytes(lins.read_bytes()[:-1])
  code, error = _refused(capsys, vgg, small, out, "--any-file")
  assert code == 4 and "ends at byte" in error
  code, error = _refused(capsys, tmp_path / "absent", lins, out)
  assert code == 4 and "absent" in error
  assert [p.name for p in tmp_path.iterdir()] == ["small.pth"]


def test_wrong_calls_end_with_2(tmp_path, capsys):
  code, error = _refused(capsys, "a", "b", tmp_path / "x.npz")
  assert code == 2 and ".safetensors" in error
  done = subprocess.run(
    [sys.executable, "-m", "lamd_jax.tools.convert", "lpips", "--vgg=a"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "--lins" in done.stderr


def test_an_output_that_cannot_be_written(published, tmp_path, capsys):
  vgg, lins, _ = published
  out = tmp_path / "no" / "x.safetensors"
  code, error = _refused(capsys, vgg, lins, out, "--any-file")
  assert code == 4 and "cannot be written" in error
