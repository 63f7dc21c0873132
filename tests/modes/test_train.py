# SPDX-License-Identifier: Apache-2.0
"""However training ends, STATUS says so; the stages themselves are stood in for."""

import json
import os
import signal

from etils import epath
import jax
import pytest
import tiny

from lamd_jax import config as config_lib
from lamd_jax import errors
from lamd_jax import run_folder
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.modes import evaluate
from lamd_jax.modes import preflight
from lamd_jax.modes import train
from lamd_jax.systems.lvdm import LVDM
from lamd_jax.training import checkpoints
from lamd_jax.training import distributed
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


def test_what_a_stage_is_told_must_be_in_the_data():
  told = lambda config, **changes: preflight.check_told(
    config, tiny.config(**changes).data, config.stages
  )
  classes = dict(model__text__encoder="none", data__tokenizer="none")
  mug = tiny.lamd_config(model__motion__num_classes=3, **classes)
  with pytest.raises(DataError, match="knows classes 0 to 2, its videos are of none"):
    told(mug)
  told(tiny.config())  # a model that is told nothing


def test_a_stage_is_not_begun_without_the_finished_one_before(tmp_path):
  workdir = epath.Path(tmp_path)
  config = tiny.gen1_config(stages=("structure",))
  train._check_pieces(config, workdir)
  (workdir / "video").mkdir()
  checkpoints.mark_finished(workdir / "video", 3)
  with pytest.raises(ConfigError, match="structure goes on from video.*name it too"):
    train._check_pieces(config, workdir)
  train._check_pieces(tiny.gen1_config(stages=("video", "structure")), workdir)
  train._check_pieces(tiny.gen1_config(stages=("image",)), workdir)


def test_parts_that_make_no_clips_are_not_scored(tmp_path):
  workdir = epath.Path(tmp_path)
  for stage in ("autoencoder", "diffusion", "prediction"):
    (workdir / stage).mkdir()
    checkpoints.mark_finished(workdir / stage, 3)

  def scored(*stages, **changes):
    config = tiny.config(stages=stages, **changes)
    return train._can_be_scored(LVDM(config), config, workdir)

  assert scored("autoencoder", "diffusion")
  assert not scored("autoencoder")
  assert not scored("autoencoder", "prediction", prediction__sparse=4)


def test_latents_are_not_to_be_cached_on_a_bucket():
  config = tiny.config(train__latent_cache=True)
  with pytest.raises(ConfigError, match="memory-mapped.*latent_cache=false"):
    preflight.check_latent_cache(config, epath.Path("gs://bucket/run"))
  preflight.check_latent_cache(config, epath.Path("/tmp/run"))


def test_scores_do_not_go_to_a_bucket(capsys, monkeypatch):
  monkeypatch.setattr(evaluate, "report", lambda *_: pytest.fail("was scored"))
  bucket = epath.Path("gs://bucket/run")
  train._report(tiny.config(), bucket, config_lib.eval_defaults())
  assert "not scored: gs://bucket/run" in capsys.readouterr().out
  with pytest.raises(ConfigError, match="gs://bucket/run: scores are written to a folder"):
    evaluate.run(tiny.config(), bucket, config_lib.eval_defaults())


def test_one_process_of_several_scores_and_writes(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(evaluate, "report", lambda *_: calls.append("report"))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  wait = lambda name: calls.append(name.split()[0])
  monkeypatch.setattr(distributed.multihost_utils, "sync_global_devices", wait)
  for process, expected in ((0, ["before", "report", "after"]), (1, ["before", "after"])):
    calls.clear()
    folder = epath.Path(tmp_path / str(process))
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    train._report(tiny.config(), folder, config_lib.eval_defaults())
    assert calls == expected
    run_folder.write(folder, tiny.config())
    assert (folder / "config.json").exists() == (process == 0)


def test_a_preempted_run(tmp_path, monkeypatch):
  assert _run(tmp_path, monkeypatch, lambda *_: False) == 75
  assert _status(tmp_path)["state"] == "preempted"


def test_a_failed_run(tmp_path, monkeypatch):
  def fail(*_):
    raise errors.NonFiniteError("loss\nwas not finite")

  with pytest.raises(errors.NonFiniteError):
    _run(tmp_path, monkeypatch, fail)
  found = _status(tmp_path)
  assert found["state"] == "failed" and found["eta_seconds"] is None
  assert found["error"] == "NonFiniteError: loss was not finite"


def test_a_run_that_is_told_to_stop_while_it_is_scored(tmp_path, monkeypatch):
  monkeypatch.setattr(train, "_can_be_scored", lambda *_: True)
  tell = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
  monkeypatch.setattr(evaluate, "report", tell)
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(train, "_train_stages", lambda *_: True)
  try:
    code = train.run(
      tiny.config(train__report=True), epath.Path(tmp_path), "auto", config_lib.eval_defaults()
    )
  finally:
    signal.signal(signal.SIGTERM, before)
  assert code == 75 and _status(tmp_path)["state"] == "preempted"


def test_too_few_clips_to_score_are_no_failure(tmp_path, monkeypatch, capsys):
  def few(*_):
    raise evaluate.TooFewClips("6 clips of the split test")

  monkeypatch.setattr(evaluate, "report", few)
  train._report(tiny.config(), epath.Path(tmp_path), config_lib.eval_defaults())
  assert capsys.readouterr().out == "not scored: 6 clips of the split test\n"
