# SPDX-License-Identifier: Apache-2.0
"""Says what a data folder is, what is wrong with it, and which flags read it.

python -m lamd_jax.tools.doctor DIR decodes each video once (kept in the index). Exit
code 0 if the folder can be trained on, 3 if not.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
import pathlib
import shlex
import sys

from lamd_jax import errors
from lamd_jax import lvdm_variants
from lamd_jax import own_data
from lamd_jax.data import index
from lamd_jax.data import layouts
from lamd_jax.data import prepared_folder
from lamd_jax.errors import DataError
from lamd_jax.data.records import Entry
from lamd_jax.data.sources import array_record
from lamd_jax.data.sources import files
from lamd_jax.data.sources import registry

_NAMED = 10  # bad files listed


def _no_layout(root: pathlib.Path) -> str:
  kinds = Counter(
    pathlib.PurePosixPath(name).suffix.lower() or "no suffix"
    for _, _, names in files.walk(root)
    for name in names
  )
  found = ", ".join(f"{n} {suffix}" for suffix, n in kinds.most_common(8)) or "no file"
  lines = [f"{root}: no known layout ({found}). Expected is one of:"]
  for source, tree in layouts.TREES.items():
    if source != "procedural":
      lines += ["", f"--config.data.source={source}"]
      lines += [f"  {line}" for line in tree.splitlines()]
  return "\n".join(lines)


def _ranges(entries: Sequence[Entry]) -> list[str]:
  """Frames, sizes and rates of the good entries, in lines."""
  frames = sorted(entry.n_frames for entry in entries)
  sizes = Counter(f"{entry.width}x{entry.height}" for entry in entries)
  rates = Counter(f"{entry.fps:.2f}" for entry in entries if entry.fps)

  def most(counter: Counter[str]) -> str:
    more = f" and {len(counter) - 4} more" if len(counter) > 4 else ""
    return ", ".join(f"{value} ({n})" for value, n in counter.most_common(4)) + more

  return [
    f"frames  {frames[0]} to {frames[-1]}, median {frames[len(frames) // 2]}",
    f"size    {most(sizes)}",
    f"rate    {most(rates) or 'none stored: data.fps says how clips are shown'}",
  ]


def _report_files(root: pathlib.Path, source: str) -> bool:
  """Prints what the index says of a source made of files; returns whether it serves."""
  listing = registry.SCAN[source](root)
  if not listing.items:
    print(f"problem {root} holds nothing that data.source={source} can read")
    print(f"expected:\n{layouts.expected_tree(source)}")
    return False
  entries = index.build(root, listing.items, again=True)
  good = [entry for entry in entries if not entry.error]
  bad = [entry for entry in entries if entry.error]
  splits = Counter(entry.split or "drawn by hash" for entry in entries)
  print(f"videos  {len(entries)}: {', '.join(f'{s} {n}' for s, n in splits.items())}")
  for note in listing.notes:
    print(f"note    {note}")
  # A file that holds many videos is named once.
  problems = list(dict.fromkeys(f"problem {e.path}: {e.error}" for e in bad))
  for line in problems[:_NAMED]:
    print(line)
  if len(problems) > _NAMED:
    print(f"problem {len(problems) - _NAMED} more bad files, see {index.NAME}")
  if not good:
    print(f"problem none of the {len(entries)} videos can be read")
    return False
  for line in _ranges(good):
    print(line)
  if bad:
    fraction = -(-100 * len(bad) // len(entries)) / 100
    print(f"bad     {len(bad)}: remove them or --config.data.max_bad_fraction={fraction}")
  return True


def _report_records(root: pathlib.Path) -> bool:
  faults = prepared_folder.check(root)
  for fault in faults:
    print(f"problem {fault}")
  if faults:
    return False
  for split, row in array_record.load_metadata(root)["splits"].items():
    print(f"{split}: {row['count']} videos {row['width']}x{row['height']}")
    missing = [name for name in row["files"] if not (root / name).is_file()]
    for name in missing:
      print(f"problem {name} is missing")
    if missing:
      return False
  if (root / prepared_folder.MANIFEST).is_file():
    lost = len((root / prepared_folder.CORRUPT).read_text("utf-8").splitlines())
    print(f"shards  each as its SHA-256 says; {lost} bad in {prepared_folder.CORRUPT}")
  return True


def _advice(folder: str) -> list[str]:
  """What to do with the videos, in words."""
  found = own_data.look(folder)  # by the index, which is there by now
  config = lvdm_variants.build("own_videos", "demo", {"demo": lvdm_variants.demo})
  return [f"advice  {line.strip()}" for line in own_data.advice(found, config)]


def run(folder: str) -> int:
  """Prints the diagnosis; returns the exit code. Raises DataError."""
  top = files.check_root(folder)
  layout = layouts.recognise(top)
  if layout is None:
    raise DataError(_no_layout(top))
  root = top / layout.root
  print(f"layout  {layout.name}" + (f", in {layout.root}/" if layout.root else ""))
  for fault in layout.faults:
    print(f"problem {fault}")
  if not layout.source:
    print("problem recognised, but no data.source reads it yet")
    return DataError.exit_code
  if layout.source in registry.SCAN:
    serves = _report_files(root, layout.source)
  elif layout.source == "array_record":
    serves = _report_records(root)
  else:
    serves = True  # what TFDS prepared it checks itself
  if not serves:
    return DataError.exit_code
  # Quoted for the shell: data set names hold spaces and "#".
  if layout.source in registry.SCAN:
    for line in _advice(folder):
      print(line)
  place = shlex.quote(f"--config.data.root={root}")
  flags = [f"--config.data.source={layout.source}", place]
  print("flags   " + " ".join([*flags, *layout.flags]))
  if layout.source in ("folder", "csv", "frames"):
    # With any config; with this one nothing else needs to be said.
    print(f"train   python -m lamd_jax.main --config=configs/own_videos.py {place}")
  return 0


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", metavar="DIR")
  options = parser.parse_args(arguments)
  return errors.exit_code(lambda: run(options.folder))


if __name__ == "__main__":
  sys.exit(main())
