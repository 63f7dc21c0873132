# SPDX-License-Identifier: Apache-2.0
"""STATUS says where a run stands, the summary how it went, W&B gets what others get."""

from __future__ import annotations

import io
import json
import sys
import types
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import toy_stage

from lamd_jax.errors import ConfigError
from lamd_jax.training import console
from lamd_jax.training import monitor
from lamd_jax.training import status as status_lib
from lamd_jax.training import summary
from lamd_jax.training import throughput
from lamd_jax.training import writers


def _read(folder):
  return json.loads((folder / "STATUS").read_text())


def test_status_counts_the_time_left_without_the_compilation(tmp_path):
  now = [0.0]
  status = status_lib.Status(tmp_path, 2, clock=lambda: now[0])
  status.stage("diffusion", 2, 100)
  found = _read(tmp_path)
  assert (found["state"], found["stage"], found["number"]) == ("training", "diffusion", 2)
  assert found["eta_seconds"] is None and found["stages"] == 2
  now[0] = 60.0  # the first step compiles for a minute
  status.step(1)
  for step in range(2, 42):
    now[0] += 0.5
    status.step(step)
  found = _read(tmp_path)
  assert found["steps"] == 100 and found["steps_per_second"] == 2.0
  # 5 s lie between two writes: the last was at step 41, 20 s after the first.
  assert found["step"] == 41 and found["eta_seconds"] == round(59 / 2)
  status.state("finished")
  found = _read(tmp_path)
  assert found["state"] == "finished" and found["eta_seconds"] == 0
  assert [p.name for p in tmp_path.iterdir()] == ["STATUS"]


class _Report(NamedTuple):
  metrics: dict
  guard: Any


class _Ready(np.ndarray):
  """A scalar that says whether the device has made it."""

  done = True

  def is_ready(self):
    return self.done


def test_waiting_for_input_counts_where_the_device_has_nothing_to_do(tmp_path, monkeypatch):
  """10 steps of 1 s: batches take 3 s, of which the device works through the first."""
  now, rows = [0.0], []
  monkeypatch.setattr(monitor.jax, "block_until_ready", lambda report: None)
  monkeypatch.setattr(monitor.jax, "device_get", lambda tree: tree)
  status = status_lib.Status(tmp_path, 1, clock=lambda: now[0])
  status.stage("toy", 1, 10)
  record = writers.Writer()
  record.write_scalars = lambda step, scalars: rows.append((step, scalars))
  writer = writers.MultiWriter([writers.StatusWriter(status), record])
  train = toy_stage.config().train
  train.log_every = 5
  counter = throughput.Throughput(jax.devices())
  watch = monitor.Monitor("toy", 0, 10, train, writer, counter, clock=lambda: now[0])
  last = np.zeros((), np.int32).view(_Ready)
  for step in range(1, 11):
    with watch.waiting():
      now[0] += 3.0 if step > 5 else 0.5
    last.done = step >= 5  # as batches of the later steps are waited for, it is idle
    guard = types.SimpleNamespace(last=last, tripped=0, skipped=0)
    watch.after_step(step, _Report({"loss/a": 1.0}, guard), np.arange(2))
    now[0] += 1.0
  watch.drain()
  # Steps 1-5 are logged at the 6th. Time counts from the first step on: 4 x 1.5 s, then 1
  # and 3 s, and those 3 found the device idle. Then 4 more waits of 3 s in 17 s.
  found = [(step, scalars[writers.INPUT_WAIT]) for step, scalars in rows]
  assert found == [(5, pytest.approx(3 / 10)), (10, pytest.approx(12 / 17))]
  status.step(10)
  assert _read(tmp_path)["input_wait"] == round(12 / 17, 4)


def test_progress_line_shows_the_wait_for_input():
  now, stream = [0.0], io.StringIO()
  line = console.Console("toy", 2, stream, clock=lambda: now[0])
  writer = writers.ConsoleWriter(line)
  for step in (1, 2):
    now[0] += 0.5
    writer.advance(step)
  writer.write_scalars(2, {"loss/a": 0.5, writers.INPUT_WAIT: 0.124})
  last = stream.getvalue().splitlines()[-1]
  assert last == "[toy] step 2/2  loss 0.5  2 steps/s  input 12%  ETA 0s"


def test_status_is_not_written_at_each_step(tmp_path):
  now = [0.0]
  status = status_lib.Status(tmp_path, 1, clock=lambda: now[0])
  status.stage("a", 1, 10**6)
  status.step(1)
  (tmp_path / "STATUS").unlink()
  for step in range(2, 1000):
    now[0] += 0.001
    status.step(step)
  assert not (tmp_path / "STATUS").exists()
  now[0] += 10
  status.step(1000)
  assert _read(tmp_path)["step"] == 1000


def test_a_resumed_stage_counts_from_where_it_goes_on(tmp_path):
  now = [0.0]
  status = status_lib.Status(tmp_path, 1, clock=lambda: now[0])
  status.stage("a", 1, 200)
  for step in (101, 102, 103):
    status.step(step)
    now[0] += 10.0
  assert _read(tmp_path)["eta_seconds"] == round((200 - 103) * 10)


def test_failures_are_one_line_and_a_full_disk_is_no_failure(tmp_path):
  status = status_lib.Status(tmp_path / "run", 1)
  status.state("failed", "NonFiniteError: loss\nwas not finite")
  assert _read(tmp_path / "run")["error"] == "NonFiniteError: loss was not finite"
  (tmp_path / "file").write_text("")
  status_lib.Status(tmp_path / "file" / "below", 1).state("starting")  # only a warning


def test_the_writers_of_a_stage_keep_it(tmp_path):
  train = toy_stage.config().train
  train.tensorboard = False
  status = status_lib.Status(tmp_path, 1)
  status.stage("toy", 1, 4)
  writer = writers.for_stage(
    train, "toy", tmp_path / "toy", steps=4, fps=8.0, status=status
  )
  for step in range(1, 5):
    writer.advance(step)
  writer.close()
  assert _read(tmp_path)["step"] == 4


def test_summary_is_a_line_a_stage(tmp_path):
  rows = [
    {"step": 1, "seconds": 1.0, "loss/generator": 2.0, "grad": 1.0},
    {"step": 11, "seconds": 100.0, "loss/generator": 1.0},
    {"step": 21, "seconds": 2.0, "loss/generator": 0.5},  # resumed: the clock is new
    {"step": 31, "seconds": 7.0, "loss/generator": 0.25, "loss/none": None},
  ]
  (tmp_path / "a").mkdir()
  text = "\n".join(map(json.dumps, rows)) + '\n{"step": 41, "sec'
  (tmp_path / "a" / "metrics.jsonl").write_text(text)
  (line,) = summary.lines(tmp_path, ("a", "never begun"))
  assert line.split() == "a 31 steps, 2 steps/s, loss generator 0.25 (from 2)".split()


@pytest.fixture
def fake_wandb(monkeypatch):
  """Stands in for the package, with the few names that are used of it."""
  calls = {"log": [], "finished": 0, "config": {}}
  module = types.ModuleType("wandb")

  class Config:
    def update(self, values, allow_val_change):
      calls["config"].update(values)

  class Run:
    config = Config()

    def log(self, values, step):
      calls["log"].append((step, values))

    def finish(self):
      calls["finished"] += 1

  def init(**options):
    calls["init"] = options
    return Run()

  module.init = init
  module.Video = lambda data, format: (data, format)
  monkeypatch.setitem(sys.modules, "wandb", module)
  monkeypatch.delenv("WANDB_MODE", raising=False)
  return calls


def test_wandb_is_offline_and_gets_scalars_and_animations(tmp_path, fake_wandb):
  train = toy_stage.config().train
  train.tensorboard, train.wandb = False, True
  writer = writers.for_stage(train, "toy", tmp_path / "run" / "toy", steps=4, fps=8.0)
  writer.write_hparams({"seed": 0})
  writer.write_scalars(2, {"loss/a": 1.0})
  writer.write_videos(2, {"clip": np.zeros((2, 3, 8, 8, 3), np.uint8)})
  writer.close()
  assert fake_wandb["init"]["mode"] == "offline"
  assert fake_wandb["init"]["name"] == "run/toy"
  assert fake_wandb["config"] == {"seed": 0} and fake_wandb["finished"] == 1
  (_, scalars), (step, videos) = fake_wandb["log"]
  assert scalars == {"loss/a": 1.0} and step == 2
  data, form = videos["clip"]
  assert isinstance(data, io.BytesIO) and data.read(3) == b"GIF" and form == "gif"


def test_wandb_that_is_not_there_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ConfigError, match=r"pip install 'lamd_jax\[wandb\]'"):
    writers.WandbWriter(tmp_path, "toy", 8.0)
