# SPDX-License-Identifier: Apache-2.0
"""Reads the weights among a checkpoint's items, whatever mesh wrote them."""

from __future__ import annotations

from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from lamd_jax.training.stage import Tree


def names(folder: epath.Path, which: str) -> dict[str, str]:
  """Returns the items that `read` reads, by group and "extras"."""
  found = {p.name for p in folder.iterdir()}
  chosen = {"extras": "extras"} if "extras" in found else {}
  for name in sorted(found):
    if name.startswith("params_"):
      group = name.removeprefix("params_")
      average = f"ema_{group}"
      chosen[group] = average if which == "ema" and average in found else name
  return chosen


def read(folder: epath.Path, which: str) -> dict[str, Any]:
  """Returns {"params": by group, "extras"} of one checkpoint, as NumPy arrays.

  Args:
    folder: of a whole checkpoint, with an item for each group and its average.
    which: "ema", averages where there are some, or "raw".
  """
  trees = {key: _read_tree(folder / name) for key, name in names(folder, which).items()}
  return {"extras": trees.pop("extras", {}), "params": trees}


def _read_tree(folder: epath.Path) -> Tree:
  # Orbax warns that an item read by itself has no metadata of a whole checkpoint.
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    return _read_quietly(folder)
  finally:
    logging.set_verbosity(verbosity)


def _read_quietly(folder: epath.Path) -> Tree:
  # Each process for itself: one may load what the others do not.
  own = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"read_{own}"
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
    shapes = reader.metadata(folder).item_metadata.tree
    as_numpy = lambda _: ocp.RestoreArgs(restore_type=np.ndarray)
    args = ocp.args.PyTreeRestore(restore_args=jax.tree.map(as_numpy, shapes))
    return reader.restore(folder, args=args)
