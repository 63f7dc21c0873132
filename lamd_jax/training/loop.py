# SPDX-License-Identifier: Apache-2.0
"""The training loop of one stage.

`train` is the whole story; the functions below it are its steps, in its order. A run
that ends "preempted" and not "finished" leaves with exit code 75.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import rng
from lamd_jax.training import checkpoints
from lamd_jax.training import monitor as monitor_lib
from lamd_jax.training import preemption
from lamd_jax.training import profile as profile_lib
from lamd_jax.training import sharding
from lamd_jax.training import state as state_lib
from lamd_jax.training import step as step_lib
from lamd_jax.training import throughput as throughput_lib
from lamd_jax.training.stage import Batch, Frozen, Stage, Tree
from lamd_jax.training.state import State
from lamd_jax.training.writers import Writer

_CHANGED = "stage %s goes on with other clips than before: videos came, went or changed"


class Loader(Protocol):
  """Batches without end, from a place that can be saved."""

  def __iter__(self) -> Iterator[Batch]: ...
  def get_state(self) -> dict[str, Any]: ...
  def set_state(self, state: dict[str, Any]) -> None: ...
  def close(self) -> None: ...


class Result(NamedTuple):
  """How a run ended, and after which step."""

  status: str  # finished | preempted
  step: int


class _Run(NamedTuple):
  """What stays the same during a run."""

  stage: Stage
  optim: ConfigDict
  train: ConfigDict
  mesh: Mesh
  frozen: Frozen  # on the devices
  root: jax.Array  # root key of all random streams
  steps: dict[str, step_lib.Step]  # by variant
  store: checkpoints.Store
  loader: Loader
  stop: preemption.Stop
  writer: Writer


def train(
  stage: Stage,
  *,
  config: ConfigDict,
  workdir: epath.PathLike,
  frozen: Frozen,
  earlier: Mapping[str, Tree] | None = None,
  loader: Loader,
  preview_batch: Batch | None,
  finish_batches: Callable[[], Iterator[Batch]],
  mesh: Mesh,
  resume: str,
  stop: preemption.Stop,
  writer: Writer,
  min_shard_bytes: int = sharding.MIN_SHARD_BYTES,
) -> Result:
  """Trains one stage to its end, or until it is asked to stop.

  Args:
    stage: what is trained.
    config: the whole config; `seed`, `train` and `optim[stage.name]` are read.
    workdir: the stage's own folder.
    frozen: weights of earlier stages, as `checkpoints.load_weights` returns them.
    earlier: those of the stage that this one goes on from, likewise; None for none.
    loader: this process's part of the batches; closed by the caller.
    preview_batch: what previews are made from, equal on all processes; None for none.
    finish_batches: makes an endless iterator for `stage.finish`.
    mesh: see `sharding.make_mesh`.
    resume: auto (from a checkpoint if there is one), must or never.
    stop: polled; a stopped run saves and ends "preempted".
    writer: gets scalars and previews.
    min_shard_bytes: arrays from this size on are cut, see `sharding.spec_for`.

  Raises:
    ConfigError: the folder does not fit `resume`, or the batch the mesh.
    CheckpointError: no checkpoint of the folder is whole, or a save failed.
    NonFiniteError: `train.max_nonfinite` steps in a row were skipped.
  """
  optim = config.optim[stage.name]
  checkpoints.check_resume(resume, workdir)
  sharding.check_batch(mesh, optim.batch, optim.accumulate)
  if checkpoints.finished(workdir):
    return Result("finished", checkpoints.finished_step(workdir))
  with jax.set_mesh(mesh), _open_store(config.train, workdir) as store:
    run, state = _prepare(
      stage, config, mesh, frozen, earlier, min_shard_bytes, store, loader, stop, writer
    )
    state, step = _restore(run, state)
    writer.rewind(step)  # forget what a killed run logged beyond its checkpoint
    with jax.transfer_guard("disallow"):  # one that nobody asked for is an error
      state, step = _steps(run, state, step, preview_batch)
      if step < optim.steps:
        return _leave(run, state, step)
    try:  # still polled: measuring may take minutes
      state = _finish(run, state, finish_batches)
    except preemption.Preempted:
      return _leave(run, state, step)
    _commit(run, state)
    checkpoints.mark_finished(workdir, step)
  return Result("finished", step)


def _open_store(train_config: ConfigDict, workdir: epath.PathLike) -> checkpoints.Store:
  return checkpoints.Store(
    workdir,
    keep=train_config.checkpoint_keep,
    keep_every=train_config.checkpoint_keep_every,
    verify=train_config.checkpoint_verify,
  )


def _prepare(
  stage: Stage,
  config: ConfigDict,
  mesh: Mesh,
  frozen: Frozen,
  earlier: Mapping[str, Tree] | None,
  min_shard_bytes: int,
  store: checkpoints.Store,
  loader: Loader,
  stop: preemption.Stop,
  writer: Writer,
) -> tuple[_Run, tuple[State, State]]:
  """Returns the run, and the host's first state with its shardings."""
  optim = config.optim[stage.name]
  state = state_lib.create(stage, optim, config.seed, earlier)
  shardings = sharding.state_shardings(state, mesh, min_bytes=min_shard_bytes)
  # A dict, whatever mapping came: jit needs a pytree.
  frozen = {name: dict(frozen[name]) for name in stage.needs}
  frozen_shardings = sharding.state_shardings(frozen, mesh, min_bytes=min_shard_bytes)
  steps = {
    variant: step_lib.build(
      stage,
      variant,
      optim=optim,
      max_nonfinite=config.train.max_nonfinite,
      mesh=mesh,
      shardings=shardings,
      frozen_shardings=frozen_shardings,
    )
    for variant in stage.variants
  }
  run = _Run(
    stage=stage,
    optim=optim,
    train=config.train,
    mesh=mesh,
    frozen=sharding.place(frozen, frozen_shardings),
    root=jax.device_put(rng.root(config.seed), sharding.replicated(mesh)),
    steps=steps,
    store=store,
    loader=loader,
    stop=stop,
    writer=writer,
  )
  return run, (state, shardings)


def _restore(run: _Run, start: tuple[State, State]) -> tuple[State, int]:
  """Continues from the newest checkpoint, or places the first state."""
  state, shardings = start
  restored = run.store.restore(state_lib.abstract(state, shardings))
  if restored is None:
    return sharding.place(state, shardings), 0
  state, data_state = restored
  now = run.loader.get_state().get("fingerprint")
  if data_state.get("fingerprint", now) != now:
    logging.warning(_CHANGED, run.stage.name)
  run.loader.set_state(data_state)
  step = int(state.step)
  logging.info("stage %s resumes after step %d", run.stage.name, step)
  return state, step


def _steps(
  run: _Run, state: State, step: int, preview_batch: Batch | None
) -> tuple[State, int]:
  """Runs steps until the last one, or until the run is asked to stop.

  The order within a step matters. A save comes before `next`, so that the loader's
  place is that of the state; the log is fetched after the next step is under way, so
  that the device does not wait for the host. Steps are started without waiting for their
  end, so the next batch travels to the devices while they compute: there is no batch in
  between that a checkpoint would have to know of.
  """
  first = step
  batches = iter(run.loader)
  throughput = throughput_lib.Throughput(list(run.mesh.devices.flat))
  monitor = monitor_lib.Monitor(
    run.stage.name, step, run.optim.steps, run.train, run.writer, throughput
  )
  profile = profile_lib.Profile(run.store.stage_dir, first, run.train.profile_steps)
  previews = _Previews(run, preview_batch)
  while step < run.optim.steps and not preemption.agreed(run.stop, step):
    if step > first and step % run.train.checkpoint_every == 0:
      monitor.drain()  # a state that tripped the guard must not be saved
      run.store.save(state, run.loader.get_state())
      run.writer.keep()
    run.store.check()
    with monitor.waiting():
      host_batch = next(batches)
    batch = sharding.place_batch(host_batch, run.mesh)
    variant = run.stage.variant_at(step)
    update, given = run.steps[variant], (state, run.frozen, run.root, batch)
    throughput.count(variant, update, *given)
    profile.before(step, state)
    state, report = update(*given)
    step += 1
    monitor.after_step(step, report, host_batch.index)
    if monitor_lib.due(step, run.train.preview_every) or step == run.optim.steps:
      previews.write(step, state)
  monitor.drain()
  profile.stop(state)
  return state, step


class _Previews:
  """Writes clips from fixed inputs and fixed noise, so that steps can be compared."""

  def __init__(self, run: _Run, batch: Batch | None):
    self._run = run
    self._enabled = batch is not None and run.train.preview_every > 0
    if not self._enabled:
      return
    whole = sharding.replicated(run.mesh)
    self._batch = sharding.place(batch, jax.tree.map(lambda _: whole, batch))
    self._zero = sharding.place(np.zeros((), np.int32), whole)

    def preview(params: Tree, extras: Tree, frozen: Frozen, batch: Batch, streams: Any):
      return run.stage.preview(params, extras, frozen, batch, streams)

    self._make = jax.jit(preview, out_shardings=whole)

  def write(self, step: int, state: State) -> None:
    """Makes and writes the clips of `step`; not when the run is to stop."""
    # With several processes only an agreed flag counts: one that went ahead alone
    # would leave the others waiting in the preview's collectives.
    stopping = jax.process_count() == 1 and self._run.stop.requested()
    if not self._enabled or stopping:
      return
    params = state_lib.averaged(state.params, state.ema)
    streams = rng.Streams(self._run.root, self._zero)
    clips = self._make(params, state.extras, self._run.frozen, self._batch, streams)
    self._run.writer.write_videos(step, jax.device_get(clips))


def _finish(
  run: _Run, state: State, finish_batches: Callable[[], Iterator[Batch]]
) -> State:
  """Lets the stage measure what it stores with its weights."""
  params = state_lib.averaged(state.params, state.ema)
  # Global arrays: what several processes measured apart would differ between them.
  placed = (sharding.place_batch(batch, run.mesh) for batch in finish_batches())
  batches = preemption.until_stopped(placed, run.stop)
  extras = run.stage.finish(params, state.extras, run.frozen, batches)
  return state._replace(extras=extras)


def _commit(run: _Run, state: State) -> None:
  """Saves and waits until it is on disk."""
  run.store.save(state, run.loader.get_state())
  run.store.wait()
  run.writer.flush()


def _leave(run: _Run, state: State, step: int) -> Result:
  """Saves what there is, if it is not saved yet, and says so."""
  if not run.store.holds(step):
    run.store.save(state, run.loader.get_state())
  run.store.wait()
  run.writer.flush()
  logging.warning("stage %s stopped and saved after step %d", run.stage.name, step)
  return Result("preempted", step)
