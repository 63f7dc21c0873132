# SPDX-License-Identifier: Apache-2.0
"""However training ends, STATUS says so; the stages themselves are stood in for."""

import json

from etils import epath
import pytest
import tiny

from lamd_jax import config as config_lib
from lamd_jax.modes import train
from lamd_jax.training import monitor
from lamd_jax.training import preemption


def _run(tmp_path, monkeypatch, stages):
  monkeypatch.setattr(train, "_train_stages", stages)
  monkeypatch.setattr(preemption.Stop, "install", lambda self: self)
  return train.run(
    tiny.config(), epath.Path(tmp_path), "auto", config_lib.eval_defaults()
  )


def _status(tmp_path):
  return json.loads((tmp_path / "STATUS").read_text())


def test_a_finished_run(tmp_path, monkeypatch, capsys):
  (tmp_path / "diffusion").mkdir()
  row = json.dumps({"step": 6, "seconds": 2.0, "loss/denoiser": 0.5}) + "\n"

  def stages(names, config, workdir, stop, status):
    assert [stage.name for stage in names] == ["autoencoder", "diffusion"]
    assert _status(tmp_path)["state"] == "training"
    (workdir / "diffusion" / "metrics.jsonl").write_text(row)
    return True

  def first(*arguments):
    arguments[-1].stage("autoencoder", 1, 6)
    return stages(*arguments)

  assert _run(tmp_path, monkeypatch, first) == 0
  assert _status(tmp_path)["state"] == "finished"
  assert "6 steps, loss denoiser 0.5" in capsys.readouterr().out


def test_a_preempted_run(tmp_path, monkeypatch):
  assert _run(tmp_path, monkeypatch, lambda *_: False) == 75
  assert _status(tmp_path)["state"] == "preempted"


def test_a_failed_run(tmp_path, monkeypatch):
  def fail(*_):
    raise monitor.NonFiniteError("loss\nwas not finite")

  with pytest.raises(monitor.NonFiniteError):
    _run(tmp_path, monkeypatch, fail)
  found = _status(tmp_path)
  assert found["state"] == "failed" and found["eta_seconds"] is None
  assert found["error"] == "NonFiniteError: loss was not finite"
