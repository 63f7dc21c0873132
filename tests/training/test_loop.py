# SPDX-License-Identifier: Apache-2.0
"""A broken-off and resumed run is the unbroken run, bit for bit."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy_stage

from lamd_jax import errors
from lamd_jax.errors import ConfigError
from lamd_jax.training import checkpoints
from lamd_jax.training import loop
from lamd_jax.training import monitor
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training import weight_items
from lamd_jax.training import writers


def _mesh(name: str):
  devices = {"one": 1, "dp": 8, "fsdp": 8}[name]
  return sharding.make_mesh("dp" if name == "one" else name, jax.devices()[:devices])


def _train(
  workdir,
  mesh="one",
  stop_before=None,
  resume="auto",
  stage=None,
  writer=None,
  preview_batch=None,
  config=None,
  poison=(),
):
  config = config or toy_stage.config()
  stop = preemption.Stop()

  def hook(step):
    if step == stop_before:
      stop.request()

  batch = config.optim.toy.batch
  return loop.train(
    stage or toy_stage.ToyStage(),
    config=config,
    workdir=workdir,
    frozen=toy_stage.FROZEN,
    # The flag is set while a batch is made; the step of that batch is finished.
    loader=toy_stage.ToyLoader(batch, hook, poison),
    preview_batch=preview_batch,
    finish_batches=lambda: iter(toy_stage.ToyLoader(batch)),
    mesh=_mesh(mesh),
    resume=resume,
    stop=stop,
    writer=writer or writers.JsonlWriter(pathlib.Path(workdir) / "metrics.jsonl"),
    min_shard_bytes=1,
  )


def _everything(workdir):
  """All arrays of the last checkpoint, by item and path."""
  step = checkpoints.steps(workdir)[-1]
  folder = checkpoints._folder(workdir) / str(step)
  found = {}
  for item in folder.iterdir():
    if item.is_dir() and item.name != "data":
      leaves = jax.tree_util.tree_leaves_with_path(weight_items._read_tree(item))
      for path, leaf in leaves:
        found[item.name + jax.tree_util.keystr(path)] = leaf
  return found


def _log(workdir):
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  for row in rows:
    del row["seconds"]
    assert 0 <= row.pop("input_wait") <= 1
    assert row.pop("tflops_per_second") >= 0  # no matrix products in it
  return rows


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """Finished runs of six steps, by mesh."""
  runs = {}
  for mesh in ("one", "fsdp"):
    runs[mesh] = tmp_path_factory.mktemp(mesh)
    assert _train(runs[mesh], mesh) == loop.Result("finished", 6)
  return runs


@pytest.mark.parametrize("mesh", ["one", "fsdp"])
def test_three_and_three_steps_are_six(unbroken, tmp_path, mesh):
  assert _train(tmp_path, mesh, stop_before=2) == loop.Result("preempted", 3)
  assert not checkpoints.finished(tmp_path)
  assert _train(tmp_path, mesh, resume="must") == loop.Result("finished", 6)
  expected, found = _everything(unbroken[mesh]), _everything(tmp_path)
  assert expected.keys() == found.keys()
  assert len(found) > 20
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  assert _log(tmp_path) == _log(unbroken[mesh])
  assert [row["step"] for row in _log(tmp_path)] == [2, 4, 6]


def test_resume_says_if_the_clips_are_others(tmp_path, monkeypatch, caplog):
  found = ["as they were"]
  real = toy_stage.ToyLoader.get_state
  state = lambda loader: real(loader) | {"fingerprint": found[0]}
  monkeypatch.setattr(toy_stage.ToyLoader, "get_state", state)
  for stop_before in (1, 3):
    _train(tmp_path, stop_before=stop_before)
    assert "other clips" not in caplog.text
  found[0] = "one more"
  assert _train(tmp_path) == loop.Result("finished", 6)
  assert "stage toy goes on with other clips than before" in caplog.text


def test_resume_on_another_mesh_agrees_to_rounding(unbroken, tmp_path):
  # The bound is that of the trainer's specification; sums are taken in another order.
  assert _train(tmp_path, "one", stop_before=2).status == "preempted"
  assert _train(tmp_path, "fsdp").status == "finished"
  expected, found = _everything(unbroken["one"]), _everything(tmp_path)
  for name, value in expected.items():
    scale = max(1.0, np.abs(value).max())
    assert np.abs(found[name] - value).max() <= 1e-5 * scale, name


def test_the_parameters_moved_and_the_average_lags(unbroken):
  start, _ = toy_stage.ToyStage().init(toy_stage.config().seed)
  raw = checkpoints.load_weights(unbroken["fsdp"], "raw")["params"]
  ema = checkpoints.load_weights(unbroken["fsdp"], "ema")["params"]
  for path in (("generator", "first", "kernel"), ("discriminator", "kernel")):
    at = lambda tree, path=path: _at(tree, path)
    assert np.abs(at(raw) - at(start)).max() > 1e-3
  generator = lambda tree: tree["generator"]["first"]["kernel"]
  assert np.abs(generator(raw) - generator(ema)).max() > 1e-4
  # A group that is not averaged is the raw one under either name.
  np.testing.assert_array_equal(
    raw["discriminator"]["kernel"], ema["discriminator"]["kernel"]
  )


def _at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def test_weights_of_eight_devices_load_as_numpy_with_what_finish_measured(unbroken):
  weights = checkpoints.load_weights(unbroken["fsdp"])
  for leaf in jax.tree.leaves(weights):
    assert isinstance(leaf, np.ndarray | np.generic)
  assert weights["extras"]["empty"] == {}
  batches = iter(toy_stage.ToyLoader(16))
  means = [next(batches).video.mean() for _ in range(2)]
  np.testing.assert_allclose(weights["extras"]["measured"], np.mean(means), rtol=1e-6)


def test_a_finished_stage_is_not_run_again(unbroken):
  before = checkpoints.steps(unbroken["one"])
  assert before == [4, 6]  # checkpoint_keep=2
  assert _train(unbroken["one"]) == loop.Result("finished", 6)
  assert checkpoints.steps(unbroken["one"]) == before


def test_each_variant_is_traced_once(tmp_path):
  stage = toy_stage.ToyStage()
  _train(tmp_path, "fsdp", stage=stage)
  # `jax.grad` inside one trace of the step calls forward once.
  assert sorted(stage.traces) == ["doubled", "plain"]


def test_the_next_batch_is_placed_before_a_step_is_waited_for(tmp_path, monkeypatch):
  events, step_of = [], {}
  place, after = sharding.place_batch, monitor.Monitor.after_step

  def placed(batch, mesh):
    events.append(("placed", int(batch.index[0]) // 16 + 1))
    return place(batch, mesh)

  def started(self, step, report, index):
    step_of[id(report)] = step
    after(self, step, report, index)

  def watch(name):
    wait = getattr(jax, name)

    def waited(tree):
      if id(tree) in step_of:
        events.append(("waited for", step_of[id(tree)]))
      return wait(tree)

    monkeypatch.setattr(jax, name, waited)

  watch("block_until_ready")
  watch("device_get")
  monkeypatch.setattr(sharding, "place_batch", placed)
  monkeypatch.setattr(monitor.Monitor, "after_step", started)
  config = toy_stage.config()
  config.train.checkpoint_every = 100  # a save waits for its step
  _train(tmp_path, config=config)
  waits = [step for event, step in events if event == "waited for"]
  assert {2, 4, 6} <= set(waits)  # those that are logged
  for at, (event, step) in enumerate(events):
    if event == "waited for" and step < 6:
      assert ("placed", step + 1) in events[:at], events


def test_resume_must_and_never(unbroken, tmp_path):
  with pytest.raises(ConfigError, match="resume=must.*no checkpoint"):
    _train(tmp_path, resume="must")
  with pytest.raises(ConfigError, match="resume=never.*overwritten"):
    _train(unbroken["one"], resume="never")
  with pytest.raises(ConfigError, match="sometimes.*auto, must, never"):
    _train(tmp_path, resume="sometimes")


def test_a_batch_that_does_not_fit_the_mesh_is_refused(tmp_path):
  with pytest.raises(ConfigError, match="batch=12.*multiple of 16"):
    _train(tmp_path, "fsdp", config=toy_stage.config(batch=12))


def test_one_bad_step_is_skipped_counted_and_named(tmp_path, caplog):
  _train(tmp_path / "bad", poison=(3,), config=toy_stage.config(steps=4))
  _train(tmp_path / "good", config=toy_stage.config(steps=3))
  bad, good = _everything(tmp_path / "bad"), _everything(tmp_path / "good")
  for name in bad:
    if "guard" not in name and "['step']" not in name:
      np.testing.assert_array_equal(bad[name], good[name], err_msg=name)
  assert bad["optimizer['guard']['skipped']"] == 1
  assert bad["optimizer['guard']['last']"] == 4
  assert "step 4 was skipped" in caplog.text
  assert "48, 49" in caplog.text  # its first examples
  assert _log(tmp_path / "bad")[-1]["loss/generator"] is None


def test_a_run_that_is_stopped_before_its_first_step_keeps_its_checkpoint(
  tmp_path, monkeypatch
):
  assert _train(tmp_path, "one", stop_before=2).status == "preempted"
  monkeypatch.setattr(
    checkpoints.ocp.CheckpointManager, "delete", lambda *_: pytest.fail("deleted")
  )
  monkeypatch.setattr(preemption.Stop, "requested", lambda self: True)
  found = checkpoints.steps(tmp_path)
  assert _train(tmp_path, "one").status == "preempted"
  assert checkpoints.steps(tmp_path) == found


def test_bad_steps_in_a_row_stop_the_run_and_are_named(tmp_path):
  # Only 3, 4, 5 (counted from 1) are three in a row; step 1 is followed by a good one.
  with pytest.raises(errors.NonFiniteError, match=r"3 to 5 .*\b4: \[48, 49, ") as info:
    _train(tmp_path, poison=(0, 2, 3, 4), config=toy_stage.config(steps=8))
  assert "2: [" not in str(info.value)
  assert max(checkpoints.steps(tmp_path)) <= 4  # nothing is saved after it tripped


def test_stop_while_finishing_saves_and_the_next_run_finishes(tmp_path):
  stage = toy_stage.ToyStage()
  stop = preemption.Stop()
  arguments = dict(
    stage=stage,
    config=toy_stage.config(steps=2),
    workdir=tmp_path,
    frozen=toy_stage.FROZEN,
    preview_batch=None,
    mesh=_mesh("one"),
    resume="auto",
    writer=writers.Writer(),
  )

  def batches():
    stop.request()
    return iter(toy_stage.ToyLoader(16))

  result = loop.train(
    loader=toy_stage.ToyLoader(16), finish_batches=batches, stop=stop, **arguments
  )
  assert result == loop.Result("preempted", 2)
  assert "measured" not in checkpoints.load_weights(tmp_path)["extras"]
  result = loop.train(
    loader=toy_stage.ToyLoader(16),
    finish_batches=lambda: iter(toy_stage.ToyLoader(16)),
    stop=preemption.Stop(),
    **arguments,
  )
  assert result == loop.Result("finished", 2)
  assert "measured" in checkpoints.load_weights(tmp_path)["extras"]


def test_previews_have_fixed_inputs_and_are_written(tmp_path):
  batch = next(toy_stage.ToyLoader(2))
  config = toy_stage.config(steps=2)
  config.train.preview_every = 1
  writer = writers.for_stage(config.train, "toy", tmp_path, steps=2, fps=4.0)
  _train(tmp_path, "fsdp", writer=writer, preview_batch=batch, config=config)
  writer.close()
  for step in (1, 2):
    names = {p.name for p in (tmp_path / "samples" / f"step_{step}").iterdir()}
    assert names == {"input.mp4", "output.mp4", "grid.gif", "meta.json"}
  assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_sigterm_saves_and_exits_with_75(tmp_path):
  done = subprocess.run(
    [sys.executable, toy_stage.__file__, "terminated", str(tmp_path)],
    env={
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    },
    timeout=120,
    check=False,
  )
  assert done.returncode == 75
  # The signal came while batch 2 was made; its step is the third.
  assert checkpoints.steps(tmp_path) == [3]


def _free_port():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def test_two_processes_leave_together_and_one_goes_on(tmp_path):
  """2 processes x 2 devices; what they saved continues on 1 x 8."""
  port = _free_port()
  environment = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_NUM_PROCESSES": "2",
    "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
  }
  processes = [
    subprocess.Popen(
      [sys.executable, toy_stage.__file__, "two", str(tmp_path / "two")],
      env={**environment, "JAX_PROCESS_ID": str(i)},
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    outputs = [process.communicate(timeout=240)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  # The flags are exchanged every 8 steps; only process 1 had one, set at step 2.
  assert preemption.POLLS_PER_EXCHANGE == 8
  for output in outputs:
    assert "result preempted 8" in output
  assert sorted(p.name for p in (tmp_path / "two" / "samples").iterdir()) == [
    "step_4",
    "step_8",
  ]
  config = toy_stage.config(accumulate=1, steps=10)
  _train(tmp_path / "two", "fsdp", resume="must", config=config)
  _train(tmp_path / "one", "fsdp", config=config)
  expected, found = _everything(tmp_path / "one"), _everything(tmp_path / "two")
  for name, value in expected.items():
    scale = max(1.0, np.abs(value).max())
    assert np.abs(found[name] - value).max() <= 1e-5 * scale, name
  assert [row["step"] for row in _log(tmp_path / "two")] == [2, 4, 6, 8, 10]
