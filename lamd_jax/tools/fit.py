# SPDX-License-Identifier: Apache-2.0
"""The largest batch on each TPU slice or GPU node: a table, filled in bit by bit.

  python -m lamd_jax.tools.fit --out=fit.jsonl --configs=configs/lvdm_sky.py
    --topologies=v5e:2x2,v5e:4x4,h200:8 --meshes=fsdp

A cell is one stage's training step on one slice. It is compiled fast with one and with
two clips on each part of the mesh that cuts the batch; the line through both says how
many fit. Where that is far from what was compiled (the optimizer's memory may hide that
of few clips), more are compiled fast. The exact compiler confirms the number
(--exact=no leaves this out; a fast program's memory is another, so the number is then a
guess). Each compilation, minutes long, is a line of --out once it is done. A second
start goes on from there, and the table in Markdown names what was not run. A line is of
the code of its day (`on`): after a change to networks begin another file. With
--smallest=yes the slices that follow the first one that holds a clip are left out; name
them in order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import datetime
import itertools
import json
import math
import pathlib
import sys
from typing import Any, NamedTuple

from lamd_jax import ahead
from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import errors
from lamd_jax import meshes
from lamd_jax import validation
from lamd_jax.errors import ConfigError
from lamd_jax.modes import compile as compile_mode
from lamd_jax.tools import paths

_PROBES = (1, 2)  # clips on a part that are compiled fast
_MOST = 512  # clips on a part; more is not asked about
_REACH = 4  # times the most clips compiled fast: how far the line is trusted


class Cell(NamedTuple):
  """What one row of the table is about."""

  config: str
  stage: str
  topology: str
  mesh: str


class Trial(NamedTuple):
  """One compilation: clips on each part of the mesh that cuts the batch, and how."""

  clips: int
  fast: bool


# What is known of a cell: a compilation's row, with `fits`, `needed`, `available`.
Known = Mapping[Trial, Mapping[str, Any]]
Rows = dict[Cell, dict[Trial, dict[str, Any]]]


def fast_limit(known: Known) -> int | None:
  """The most clips by the line through the two largest fast ones.

  0: none fits; None: not known yet.
  """
  fast = {trial.clips: row for trial, row in known.items() if trial.fast}
  if len(fast) < len(_PROBES):
    return None
  # Of some that are too large the compiler gives no number.
  told = sorted(clips for clips, row in fast.items() if row["needed"])
  most = min([_MOST + 1, *(clips for clips in fast if clips not in told)]) - 1
  if len(told) < len(_PROBES):
    return 0
  a, b = told[-2:]
  slope = (fast[b]["needed"] - fast[a]["needed"]) / (b - a)
  room = fast[a]["available"] - fast[a]["needed"]
  if slope <= 0:  # what moves is not the batch's
    return most if room >= 0 else 0
  return min(most, max(0, a + math.floor(room / slope)))


def next_trial(known: Known, exact: bool) -> Trial | None:
  """Returns what to compile next; None if the cell is done.

  It depends on nothing but what is known: whoever was broken off goes on.
  """
  if any("refused" in row for row in known.values()):
    return None
  for clips in _PROBES:
    if Trial(clips, True) not in known:
      return Trial(clips, True)
  limit = fast_limit(known) or 0
  largest = max(trial.clips for trial in known if trial.fast)
  if limit > _REACH * largest:
    return Trial(_REACH * largest, True)
  if not exact:
    return None
  tried = [trial.clips for trial in known if not trial.fast]
  if not tried:
    # One clip may fit exactly where it does not in a hurry.
    return Trial(max(1, limit), False)
  least = min(tried)
  row = known[Trial(least, False)]
  if row["fits"] or least == 1:
    return None
  first, second = (known[Trial(clips, True)]["needed"] for clips in _PROBES)
  # What is over by the exact number, at the dearest clip that was seen.
  slope = max(second - first, (row["needed"] - first) / (least - _PROBES[0]), 1)
  over = (row["needed"] - row["available"]) / slope
  return Trial(max(1, least - max(1, math.ceil(over))), False)


def answer(known: Known) -> tuple[int | None, Trial | None]:
  """The most clips (None: not known), and the exact compilation that confirms it."""
  confirmed = [t for t, row in known.items() if not t.fast and row["fits"]]
  if confirmed:
    return confirmed[0].clips, confirmed[0]
  if Trial(1, False) in known:
    return 0, Trial(1, False)
  return fast_limit(known), None


def measure(cell: Cell, trial: Trial) -> dict[str, Any]:
  """Compiles one training step; an input that is refused is a row too."""
  config = command_line.load_config(cell.config).unlock()
  count = len(ahead.devices(cell.topology))
  options = config_lib.compile_defaults()
  options.update(topology=cell.topology, fast=trial.fast)
  try:
    config.train.mesh = cell.mesh
    batch = trial.clips * meshes.batch_parts(cell.mesh, count)
    for stage in config.stages:  # of the others too: they are checked
      config.optim[stage].update(batch=batch, accumulate=1)
    validation.check_config(config.lock(), count)
    place = compile_mode.open_slice(config, options)
    found, _ = compile_mode.train(place, cell.stage)
  except ConfigError as error:
    return {"refused": str(error)}
  return {"batch": batch, **found._asdict()}


def read(out: pathlib.Path) -> Rows:
  """Reads what is done; a line that was cut off counts as not done."""
  rows: Rows = {}
  for line in out.read_text("utf-8").splitlines() if out.exists() else []:
    try:
      row = json.loads(line)
    except ValueError:
      continue
    cell, trial = Cell(*row["cell"]), Trial(*row["trial"])
    rows.setdefault(cell, {})[trial] = row["found"]
  return rows


def fill(
  out: pathlib.Path,
  cells: Sequence[Cell],
  compiler: Callable[[Cell, Trial], dict[str, Any]],
  *,
  exact: bool,
  smallest: bool,
) -> Rows:
  """Does what is left to do, a line of `out` for each compilation; returns all rows."""
  rows, held = read(out), set()
  out.parent.mkdir(parents=True, exist_ok=True)
  for cell in cells:
    key = cell._replace(topology="")
    if smallest and key in held:
      continue
    known = rows.setdefault(cell, {})
    while trial := next_trial(known, exact):
      found = known[trial] = compiler(cell, trial)
      today = datetime.date.today().isoformat()
      line = json.dumps({"cell": cell, "trial": trial, "on": today, "found": found})
      with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
      print(line[:200], file=sys.stderr, flush=True)
    if answer(known)[0]:
      held.add(key)
  return rows


def _row(known: Known) -> Iterator[str]:
  """Clips, memory and certainty of one row of the table."""
  refused = [row["refused"] for row in known.values() if "refused" in row]
  clips, confirmed = answer(known) if not refused else (None, None)
  if refused or clips is None:
    yield from ("", "", refused[0] if refused else "not run")
    return
  row = known[confirmed or Trial(1, True)]
  gib = lambda size: f"{size / 2**30:.1f}"
  yield str(clips) if clips else "does not fit"
  if confirmed or not clips:
    yield f"{gib(row['needed'])} of {gib(row['available'])} GiB"
  else:
    fast = sorted((t.clips, row["needed"]) for t, row in known.items() if t.fast)
    (a, low), (b, high) = [pair for pair in fast if pair[1]][-2:]
    predicted = low + (clips - a) * max(0, high - low) / (b - a)
    yield f"about {gib(predicted)} of {gib(row['available'])} GiB"
  yield "confirmed" if confirmed else f"by fast compilations of up to {b}"


def table(rows: Rows, cells: Sequence[Cell]) -> str:
  """Returns Markdown; cells that are not there say so."""
  lines = ["| config | stage | slice | mesh | clips a part | memory a device | how |",
           "|---|---|---|---|---|---|---|"]  # fmt: skip
  for cell in cells:
    name = pathlib.Path(cell.config.partition(":")[0]).stem
    ends = " | ".join(_row(rows.get(cell, {})))
    lines.append(f"| {name} | {cell.stage} | {cell.topology} | {cell.mesh} | {ends} |")
  return "\n".join(lines)


def _cells(flags: argparse.Namespace) -> list[Cell]:
  """What is asked for, checked before hours of compiling. Raises ConfigError."""
  for topology in flags.topologies.split(","):
    ahead.devices(topology)
  wanted = [stage for stage in flags.stages.split(",") if stage]
  configs = {c: command_line.load_config(c).stages for c in flags.configs.split(",")}
  known = set(itertools.chain(*configs.values()))
  if unknown := [stage for stage in wanted if stage not in known]:
    raise ConfigError(
      f"--stages={unknown[0]}: no such stage; those configs have {', '.join(sorted(known))}"
    )
  cells = []
  for config, stages in configs.items():
    for stage in [stage for stage in wanted if stage in stages] if wanted else stages:
      for mesh in flags.meshes.split(","):
        # A mesh may be a product, whose sizes have commas: those are joined by +.
        mesh = mesh.replace("+", ",")
        cells += [Cell(config, stage, t, mesh) for t in flags.topologies.split(",")]
  return cells


def main(arguments: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(prog="lamd_jax.tools.fit", description=__doc__)
  parser.add_argument("--out", type=paths.path, required=True, metavar="FILE.jsonl")
  parser.add_argument("--configs", required=True, metavar="A.py,B.py:variant")
  parser.add_argument("--topologies", required=True, metavar="v5e:4x4,h200:8")
  parser.add_argument("--meshes", default="fsdp", metavar="fsdp,data=2+fsdp=-1")
  parser.add_argument("--stages", default="", help="default: those of each config")
  parser.add_argument("--exact", choices=("yes", "no"), default="yes")
  parser.add_argument("--smallest", choices=("yes", "no"), default="no")
  flags = parser.parse_args(arguments)
  exact, smallest = flags.exact == "yes", flags.smallest == "yes"

  def command() -> None:
    ahead.prepare()
    cells = _cells(flags)
    rows = fill(flags.out, cells, measure, exact=exact, smallest=smallest)
    print(table(rows, cells))

  return errors.exit_code(command)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
