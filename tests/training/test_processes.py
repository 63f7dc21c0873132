# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed, told to stop, and started again in another number.

Always four devices; gloo between the processes.
"""

from __future__ import annotations

import collections
import json
import signal
import time

import processes
import pytest
import toy_processes

from lamd_jax.training import checkpoints
from lamd_jax.training import loop

STEPS = 10


def _start(workdir, count, event="none", at=0, victim=1):
  return processes.start(toy_processes, count, workdir, STEPS, event, at, victim)


def _kill_one(workdir):
  """Two processes; the second is killed at step 5, as is then the first, which waits."""
  started = _start(workdir, 2, "kill", at=5)
  try:
    started[1].wait(240)
    assert started[1].returncode == -signal.SIGKILL, started[1].communicate()[0]
    time.sleep(0.5)
  finally:
    for process in started:
      process.kill()
      process.communicate()
  saved = checkpoints.steps(workdir)
  assert saved and saved[-1] in (2, 4)
  return saved[-1]


def _losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return {r["step"]: r["loss/generator"] for r in map(json.loads, lines)}


def _order(workdir):
  """Step -> all sets of clips that the processes of some start took together."""
  found = collections.defaultdict(list)
  for path in sorted(workdir.glob("order-*.jsonl")):
    for step, index in map(json.loads, path.read_text().splitlines()):
      found[step].append(index)
  return {step: sorted(sum(parts, [])) for step, parts in found.items()}


def _expected_order():
  size = toy_processes.BATCH
  return {step: list(range(step * size, (step + 1) * size)) for step in range(STEPS)}


def _forget_order(workdir):
  for path in workdir.glob("order-*.jsonl"):
    path.unlink()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """The losses of a run in this process that nothing disturbs."""
  before = signal.getsignal(signal.SIGTERM)
  workdir = tmp_path_factory.mktemp("unbroken")
  assert toy_processes.train(workdir, STEPS) == loop.Result("finished", STEPS)
  signal.signal(signal.SIGTERM, before)
  assert _order(workdir) == _expected_order()
  return _losses(workdir)


def _check(workdir, unbroken, first):
  """Losses of all steps, and the order from the step that the last start began at."""
  losses = _losses(workdir)
  assert losses == pytest.approx(unbroken, rel=1e-5)
  expected = {k: v for k, v in _expected_order().items() if k >= first}
  assert _order(workdir) == expected


def test_killed_then_terminated_then_alone(tmp_path, unbroken):
  """Two are killed; two go on until one gets SIGTERM and both save; one finishes."""
  saved = _kill_one(tmp_path)
  _forget_order(tmp_path)
  codes, outputs = processes.finish(_start(tmp_path, 2, "term", at=5, victim=1))
  assert codes == [75, 75], outputs
  # The flags are exchanged every 8 steps.
  assert all("result preempted 8" in output for output in outputs)
  assert checkpoints.steps(tmp_path)[-1] == 8
  before = signal.getsignal(signal.SIGTERM)
  assert toy_processes.train(tmp_path, STEPS) == loop.Result("finished", STEPS)
  signal.signal(signal.SIGTERM, before)
  _check(tmp_path, unbroken, saved)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_goes_on_where_two_were_killed(tmp_path, unbroken, count):
  saved = _kill_one(tmp_path)
  _forget_order(tmp_path)
  codes, outputs = processes.finish(_start(tmp_path, count))
  assert codes == [0] * count, outputs
  assert all(f"result finished {STEPS}" in output for output in outputs)
  _check(tmp_path, unbroken, saved)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_signal_may_reach_any_process(tmp_path, victim):
  codes, outputs = processes.finish(_start(tmp_path, 2, "term", at=2, victim=victim))
  assert codes == [75, 75], outputs
  assert checkpoints.steps(tmp_path)[-1] == 8
