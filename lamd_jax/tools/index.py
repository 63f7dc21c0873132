# SPDX-License-Identifier: Apache-2.0
"""Builds the clip index of a folder: python -m lamd_jax.tools.index DIR.

Decodes every new or changed video once, in processes of their own, and writes
DIR/.lamd_index.jsonl. Training builds it by itself; this does it ahead of time, and
tries again what took too long before or ended its process. Exit code 3 if there is no
readable video.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
import sys

from lamd_jax import errors
from lamd_jax.data import index
from lamd_jax.data import layouts
from lamd_jax.data import probe
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.data.records import Entry
from lamd_jax.data.sources import files
from lamd_jax.data.sources import registry


def run(folder: str, source: str, timeout: float) -> list[Entry]:
  """Builds the index; `source` "" asks the layout. Raises DataError."""
  root = files.check_root(folder)
  if not source:
    layout = layouts.recognise(root)
    if layout is None or layout.source not in registry.SCAN:
      what = layout.name if layout else "nothing known"
      raise DataError(
        f"{folder} holds {what}, which has no index; see python -m"
        f" lamd_jax.tools.doctor {folder}"
      )
    root, source = root / layout.root, layout.source
  listing = registry.SCAN[source](root)
  if not listing.items:
    raise DataError(f"{root} holds no video that data.source={source} can read")
  for note in listing.notes:
    print(note)
  entries = index.build(root, listing.items, timeout, again=True)
  bad = [entry for entry in entries if entry.error]
  for entry in bad:
    print(f"bad: {entry.path}: {entry.error}")
  splits = Counter(entry.split or "no split" for entry in entries)
  print(
    f"{len(entries)} videos ({', '.join(f'{n} {s}' for s, n in sorted(splits.items()))}),"
    f" {len(bad)} bad, {sum(e.n_frames for e in entries)} frames"
  )
  print(f"index: {next(iter(index.found(root)), 'not stored')}")
  if len(bad) == len(entries):
    raise DataError(f"{root}: none of the {len(entries)} videos can be read")
  return entries


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", metavar="DIR")
  parser.add_argument(
    "--source", default="", choices=("", *registry.SCAN), help="default: found out"
  )
  parser.add_argument(
    "--timeout", type=float, default=probe.TIMEOUT, help="seconds a file may take"
  )
  options = parser.parse_args(arguments)

  def command() -> None:
    if not options.timeout >= 1:
      raise ConfigError(f"--timeout={options.timeout:g}: must be at least 1 second")
    run(options.folder, options.source, options.timeout)

  return errors.exit_code(command)


if __name__ == "__main__":
  sys.exit(main())
