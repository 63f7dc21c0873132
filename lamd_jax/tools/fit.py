# SPDX-License-Identifier: Apache-2.0
"""A table of what fits on which TPU slice, filled cell by cell, to be broken off at will.

  python -m lamd_jax.tools.fit --out=fit.jsonl --configs=configs/lvdm_sky.py
    --topologies=v5e:4x4,v5p:2x2x2 --meshes=fsdp --batches=16,32

Every cell is one stage's training step, compiled (minutes each). Cells are appended to
--out as they are done; a second start skips those, and prints the table in Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import itertools
import json
import pathlib
import sys
from typing import Any, NamedTuple

from lamd_jax import ahead
from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import meshes
from lamd_jax import validation
from lamd_jax.errors import ConfigError, InputError
from lamd_jax.modes import compile as compile_mode

_FLAGS = ("out", "configs", "topologies", "meshes", "batches")


class Cell(NamedTuple):
  """What one row of the table is about."""

  config: str
  topology: str
  mesh: str
  batch: int  # clips a step, over all devices


def parse(arguments: Sequence[str]) -> tuple[pathlib.Path, list[Cell]]:
  """Returns the table's file and all cells asked for. Raises ConfigError."""
  found = dict(a.removeprefix("--").split("=", 1) for a in arguments if "=" in a)
  if set(found) != set(_FLAGS) or len(found) != len(arguments):
    raise ConfigError(f"tools.fit takes {' '.join(f'--{x}=...' for x in _FLAGS)}")
  lists = [found[name].split(",") for name in _FLAGS[1:]]
  # A mesh may be a product, whose sizes have commas: those are joined by +.
  lists[2] = [mesh.replace("+", ",") for mesh in lists[2]]
  if not all(batch.isdigit() for batch in lists[3]):
    raise ConfigError(f"--batches={found['batches']}: numbers with commas between")
  cells = [Cell(c, t, m, int(b)) for c, t, m, b in itertools.product(*lists)]
  return pathlib.Path(found["out"]), cells


def done(out: pathlib.Path) -> dict[Cell, list[dict[str, Any]]]:
  """Reads the finished cells; a last line that was cut off counts as not done."""
  rows: dict[Cell, list[dict[str, Any]]] = {}
  for line in out.read_text("utf-8").splitlines() if out.exists() else []:
    try:
      row = json.loads(line)
    except ValueError:
      continue
    rows[Cell(*row["cell"])] = row["stages"]
  return rows


def measure(cell: Cell) -> list[dict[str, Any]]:
  """Compiles the training steps of a cell; an input that is refused is a row too."""
  config = command_line.load_config(cell.config).unlock()
  config.train.mesh = cell.mesh
  for stage in config.stages:
    config.optim[stage].batch = cell.batch
  options = config_lib.compile_defaults()
  options.update(topology=cell.topology, programs=("train",))
  try:
    count = len(ahead.devices(cell.topology))
    meshes.sizes(cell.mesh, count)
    validation.check_config(config.lock(), count)
  except ConfigError as error:
    if not ahead.library():
      raise
    return [{"program": "", "refused": str(error)}]
  sample = compile_mode.sample_settings(config, config_lib.sample_defaults())
  programs: Iterator[Any] = compile_mode.programs(config, sample, options)
  return [{"program": name, **found._asdict()} for name, found in programs]


def table(rows: dict[Cell, list[dict[str, Any]]], cells: Sequence[Cell]) -> str:
  """Returns Markdown; cells that are not there say so."""
  lines = ["| config | slice | mesh | batch | program | memory a device | fits |",
           "|---|---|---|---|---|---|---|"]  # fmt: skip
  for cell in cells:
    name = pathlib.Path(cell.config.partition(":")[0]).stem
    head = f"| {name} | {cell.topology} | {cell.mesh} | {cell.batch} |"
    for row in rows.get(cell, [{"program": "", "refused": "not run"}]):
      if "refused" in row:
        lines.append(f"{head} | | {row['refused']} |")
        continue
      size = f"{row['needed'] / 2**30:.1f} of {row['available'] / 2**30:.1f} GiB"
      fits = "yes" if row["fits"] else "no"
      lines.append(f"{head} {row['program']} | {size} | {fits} |")
  return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
  try:
    out, cells = parse(arguments)
    ahead.prepare()
    rows = done(out)
    for cell in cells:
      if cell in rows:
        continue
      rows[cell] = measure(cell)
      with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"cell": cell, "stages": rows[cell]}) + "\n")
      print(table(rows, [cell]).splitlines()[-1], flush=True)
    print(table(rows, cells))
  except InputError as error:
    print(f"lamd_jax: {error}", file=sys.stderr, flush=True)
    return error.exit_code
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
