# SPDX-License-Identifier: Apache-2.0
"""Saving and restoring; the only file that knows Orbax.

A stage's folder holds `checkpoints/STEP/`, each with an item per parameter group
(`params_G`, and `ema_G` where there is an average), `extras`, `optimizer` (with the
step and the guard), `data` (the loader's place, JSON) and a manifest; and, once the
stage has ended, `finished.json`. Checkpoints that fail verification are moved to
`corrupt/`.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from lamd_jax.errors import ConfigError, WeightsError
from lamd_jax.training import manifest
from lamd_jax.training import weight_items
from lamd_jax.training.stage import Tree
from lamd_jax.training.state import Guard, State

FINISHED = "finished.json"
RESUME = ("auto", "must", "never")
_policies = ocp.checkpoint_managers
# Orbax lets the replicas of an array write a part each. Every part of every shape is a
# program to compile, which small arrays do not repay.
_WRITTEN_IN_PARTS = 64 * 2**20  # bytes


class CheckpointError(WeightsError):
  """A checkpoint that cannot be written, or read back as it was written."""


def steps(stage_dir: epath.PathLike) -> list[int]:
  """Returns the steps of the committed checkpoints, ascending."""
  folder = _folder(stage_dir)
  if not folder.exists():
    return []
  # In a bucket a folder has its final name before it is whole.
  partial = {left.get().name for left in ocp.utils.tmp_checkpoints(folder)}
  names = {p.name for p in folder.iterdir() if p.name.isdigit()} - partial
  return sorted(map(int, names))


def finished(stage_dir: epath.PathLike) -> bool:
  """Whether the stage has run to its end."""
  return (_absolute(stage_dir) / FINISHED).exists()


def finished_step(stage_dir: epath.PathLike) -> int:
  """The step at which a finished stage ended. Raises CheckpointError if it is not said."""
  marker = _absolute(stage_dir) / FINISHED
  try:
    return int(json.loads(marker.read_text())["step"])
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(
      f"{marker}: is damaged ({error}); remove it and train again: the stage goes on"
      " from its last checkpoint"
    ) from error


def mark_finished(stage_dir: epath.PathLike, step: int) -> None:
  """Writes the marker; the checkpoint of `step` is committed before."""
  if jax.process_index() == 0:
    marker = _absolute(stage_dir) / FINISHED
    # Whole or not at all: half of it, on a full disk, would pass for a finished stage.
    partial = marker.with_name(f".{FINISHED}.part")
    partial.write_text(json.dumps({"step": step}) + "\n")
    partial.replace(marker)
  if jax.process_count() > 1:  # all find it finished, and do the same next
    multihost_utils.sync_global_devices("finished")


def check_resume(resume: str, stage_dir: epath.PathLike) -> None:
  """Raises ConfigError if `--resume` and what lies in the folder do not agree."""
  if resume not in RESUME:
    raise ConfigError(f"resume={resume!r} is not one of {', '.join(RESUME)}")
  found = steps(stage_dir)
  if resume == "must" and not found:
    raise ConfigError(
      f"resume=must, but {_folder(stage_dir)} holds no checkpoint: give the workdir of"
      " an earlier run, or resume=auto to start afresh"
    )
  if resume == "never" and (found or finished(stage_dir)):
    raise ConfigError(
      f"resume=never, but {_absolute(stage_dir)} holds a run (step"
      f" {found[-1] if found else '?'}), which would be overwritten: choose another"
      " workdir, or resume=auto to continue it"
    )


class Store:
  """The checkpoints of one stage. Use as a context manager: leaving it waits."""

  def __init__(
    self, stage_dir: epath.PathLike, *, keep: int, keep_every: int, verify: str
  ):
    """Opens the folder, and removes what a killed save left there.

    Args:
      stage_dir: the stage's folder.
      keep: how many of the newest checkpoints stay.
      keep_every: checkpoints at multiples of it stay too; 0 for none.
      verify: full, size or off, see `manifest.problems`.
    """
    self.stage_dir = _absolute(stage_dir)
    self._folder = _folder(stage_dir)
    self._verify = verify
    self._saving = -1
    # Before the manager reads the folder, so that it never knows the bad ones.
    self._start = _on_first_process(self._clean_and_find)
    kept: list[Any] = [_policies.LatestN(keep)]
    if keep_every:
      kept.append(_policies.EveryNSteps(keep_every))
    self._manager = ocp.CheckpointManager(
      self._folder,
      handler_registry=_handlers(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=_policies.AnyPreservationPolicy(kept),
        enable_async_checkpointing=True,
        async_options=ocp.options.AsyncOptions(
          post_finalization_callback=self._write_manifest
        ),
      ),
    )

  def __enter__(self) -> Store:
    return self

  def __exit__(self, *error: object) -> None:
    self._manager.close()

  def save(self, state: State, data_state: dict[str, Any]) -> None:
    """Starts to save under `state.step`; waits only for the save before it.

    The state may be donated as soon as this returns. A checkpoint of the same step,
    left by a run that was stopped while the stage finished, is replaced.
    """
    # Orbax reads the arrays in a way that the loop's guard takes for an accident, on
    # GPUs and TPUs. On a CPU nothing has to be moved, and the guard is silent.
    with jax.transfer_guard("allow"):
      self._save(state, data_state)

  def _save(self, state: State, data_state: dict[str, Any]) -> None:
    step = int(jax.device_get(state.step))
    self._manager.wait_until_finished()
    if self.holds(step):
      self._manager.delete(step)
    self._saving = step
    args = {name: ocp.args.PyTreeSave(x) for name, x in _items(state).items()}
    args["data"] = ocp.args.JsonSave(data_state)
    # Orbax returns False, and saves nothing, for a step that is not the newest.
    with self._naming_it():
      saved = self._manager.save(step, args=ocp.args.Composite(**args))
    if not saved:
      raise CheckpointError(
        f"{self._folder}: step {step} was not saved, {self._manager.latest_step()} is"
        " there already; does another run write to this folder?"
      )

  def restore(self, like: State) -> tuple[State, dict[str, Any]] | None:
    """Returns the newest whole checkpoint, or None if there is none at all.

    Args:
      like: ShapeDtypeStructs with shardings; the mesh may differ from the saved one.
    """
    if self._start < 0:
      return None
    items = _items(like)
    args = {
      name: ocp.args.PyTreeRestore(
        x, restore_args=ocp.checkpoint_utils.construct_restore_args(x)
      )
      for name, x in items.items()
    }
    args["data"] = ocp.args.JsonRestore()
    found = self._manager.restore(self._start, args=ocp.args.Composite(**args))
    return _assemble({name: found[name] for name in items}, like), found["data"]

  def wait(self) -> None:
    """Returns when the last save is on disk; raises if it failed."""
    with self._naming_it():
      self._manager.wait_until_finished()
    self.check()

  def check(self) -> None:
    """Raises if a save failed in the background."""
    with self._naming_it():
      self._manager.check_for_errors()

  def holds(self, step: int) -> bool:
    """Whether a checkpoint of this step is there."""
    return step in self._manager.all_steps()

  @contextlib.contextmanager
  def _naming_it(self) -> Iterator[None]:
    """Makes one line of what went wrong with a save, a full disk for one."""
    try:
      yield
    except ValueError as error:  # what Orbax makes of it
      reason = str(error).partition("\n")[0]
      raise CheckpointError(
        f"{self._folder}: step {self._saving} was not saved ({reason}); those before it"
        " are whole, and the same command goes on from there"
      ) from error

  def _write_manifest(self) -> None:
    # Orbax calls this when all files are written and before the folder gets its final
    # name, so that a committed checkpoint always has its manifest.
    step = str(self._saving)
    for entry in self._folder.iterdir():
      if entry.name == step or entry.name.startswith(f"{step}.orbax-checkpoint-tmp"):
        manifest.write(entry)

  def _clean_and_find(self) -> int:
    # Orbax's own option for this cleans in the background, and not at all if the
    # manager is closed, or the process ends, before the first save.
    for left in ocp.utils.tmp_checkpoints(self._folder):
      left.get().rmtree()
    return self._newest_good()

  def _newest_good(self) -> int:
    """Returns the newest step that verifies, moving away newer ones; -1 if none."""
    found = steps(self.stage_dir)
    for step in reversed(found):
      bad = manifest.problems(self._folder / str(step), self._verify)
      if not bad:
        return step
      aside = self.stage_dir / "corrupt" / str(step)
      logging.error(
        "checkpoint %d is damaged (%s): moved to %s, falling back to the one before",
        step, "; ".join(bad[:3]), aside,
      )  # fmt: skip
      aside.parent.mkdir(parents=True, exist_ok=True)
      if aside.exists():
        aside.rmtree()
      (self._folder / str(step)).rename(aside)
    if found:
      raise CheckpointError(
        f"all checkpoints of {self.stage_dir} are damaged (steps"
        f" {', '.join(map(str, found))}, now under corrupt/): restore them from a"
        " backup, or start again"
      )
    return -1


def write_finished(
  stage_dir: epath.PathLike,
  params: dict[str, Tree],
  ema: dict[str, Tree],
  extras: Tree,
) -> None:
  """Writes the folder of a stage that was trained elsewhere, to be loaded from.

  Args:
    stage_dir: the stage's folder, which holds no checkpoint.
    params: by parameter group, NumPy arrays in float32.
    ema: likewise, of the groups that have an average.
    extras: the stage's own, as its `finish` leaves them.
  """
  zero = np.zeros((), np.int32)
  guard = Guard(zero, zero, zero, zero)
  with Store(stage_dir, keep=1, keep_every=0, verify="off") as store:
    store.save(State(zero, params, ema, {}, extras, guard), {})
    store.wait()
  mark_finished(stage_dir, int(zero))


def averaged_groups(stage_dir: epath.PathLike) -> tuple[str, ...]:
  """Returns the groups of which a finished stage holds an average."""
  folder = _folder(stage_dir) / str(finished_step(stage_dir))
  names = sorted(p.name for p in folder.iterdir())
  return tuple(n.removeprefix("ema_") for n in names if n.startswith("ema_"))


def load_weights(
  stage_dir: epath.PathLike, which: str = "ema", verify: str = "full"
) -> dict[str, Any]:
  """Reads a stage's weights, whatever mesh wrote them; needs no network.

  Args:
    stage_dir: the stage's folder, of a finished or an unfinished run.
    which: "ema" gives the averages of the groups that have one, "raw" gives none.
    verify: full, size or off, see `manifest.problems`.

  Returns:
    {"params": {group: tree}, "extras": tree} in NumPy.

  Raises:
    CheckpointError: nothing is there, or it is damaged. An older checkpoint is taken
      only where the stage is unfinished: what `finish` measured is in the last one.
  """
  if which not in ("ema", "raw"):
    raise ValueError(f"which={which!r} is neither ema nor raw")
  done = finished(stage_dir)
  candidates = [finished_step(stage_dir)] if done else steps(stage_dir)[::-1]
  if not candidates:
    raise CheckpointError(f"{_folder(stage_dir)} holds no checkpoint: train it first")
  for step in candidates:
    folder = _folder(stage_dir) / str(step)
    read = weight_items.names(folder, which).values()
    bad = manifest.problems(folder, verify, read)
    if not bad:
      return weight_items.read(folder, which)
    logging.error("checkpoint %s is damaged: %s", folder, "; ".join(bad[:3]))
  raise CheckpointError(
    f"{_folder(stage_dir)}: no whole checkpoint among steps"
    f" {', '.join(map(str, candidates))} ({bad[0]}); restore it from a backup, or train"
    " again"
  )


def _handlers() -> ocp.CheckpointHandlerRegistry:
  """What Orbax writes and reads the parts of a checkpoint with."""
  kinds = ocp.type_handlers
  arrays = kinds.ArrayHandler(min_slice_bytes_for_replica_parallel=_WRITTEN_IN_PARTS)
  trees = ocp.PyTreeCheckpointHandler(
    type_handler_registry=kinds.create_type_handler_registry(
      (int, kinds.ScalarHandler()),
      (float, kinds.ScalarHandler()),
      (np.number, kinds.ScalarHandler()),
      (np.ndarray, kinds.NumpyHandler()),
      (jax.Array, arrays),
    )
  )
  json = ocp.JsonCheckpointHandler()
  registry = ocp.DefaultCheckpointHandlerRegistry()
  registry.add(None, ocp.args.PyTreeSave, trees)
  registry.add(None, ocp.args.PyTreeRestore, trees)
  registry.add(None, ocp.args.JsonSave, json)
  registry.add(None, ocp.args.JsonRestore, json)
  return registry


def _items(state: State) -> dict[str, Tree]:
  """A state's parts by item name; Orbax refuses items without any array."""
  items = {f"params_{g}": tree for g, tree in state.params.items()}
  items |= {f"ema_{g}": tree for g, tree in state.ema.items()}
  items["extras"] = state.extras
  items["optimizer"] = {
    "step": state.step, "opt_state": state.opt_state, "guard": state.guard
  }  # fmt: skip
  return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _assemble(items: dict[str, Tree], like: State) -> State:
  """The inverse of `_items`; parts without arrays come from `like`."""
  part = lambda name, other: items.get(name, other)
  return State(
    params={g: part(f"params_{g}", x) for g, x in like.params.items()},
    ema={g: part(f"ema_{g}", x) for g, x in like.ema.items()},
    extras=part("extras", like.extras),
    **items["optimizer"],
  )


def _on_first_process(f: Any) -> int:
  """Runs `f` on process 0 and returns its integer everywhere; -2 stands for failure."""
  if jax.process_count() == 1:
    return f()
  result, error = -2, None
  if jax.process_index() == 0:
    try:
      result = f()
    except CheckpointError as caught:
      error = caught
  result = int(multihost_utils.broadcast_one_to_all(np.int32(result)))
  if result == -2:
    raise error or CheckpointError("process 0 found all checkpoints damaged")
  return result


def _absolute(path: epath.PathLike) -> epath.Path:
  path = epath.Path(path)  # of a bucket it is absolute, and resolve() would spoil it
  return path if "://" in os.fspath(path) else path.expanduser().resolve()


def _folder(stage_dir: epath.PathLike) -> epath.Path:
  return _absolute(stage_dir) / "checkpoints"
