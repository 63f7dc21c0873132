# SPDX-License-Identifier: Apache-2.0
"""The books of a folder of prepared clips: whose it is, what is complete, what was lost.

Which files there are: see `prepared`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from lamd_jax.data import prepared
from lamd_jax.data.sources import array_record
from lamd_jax.errors import ConfigError, DataError

PREPARATION = "preparation.json"
MANIFEST = "manifest.json"
CORRUPT = "corrupt.jsonl"

_FORMAT = {"format": "lamd_prepared", "version": 1}


def begin(config: ConfigDict, plans: Sequence[prepared.Plan], out: pathlib.Path) -> None:
  """Claims `out` for this preparation, or checks that it is this one's already.

  Raises ConfigError if the folder holds another one, or anything else.
  """
  splits = {p.split: {"digest": p.digest, "shards": p.shards} for p in plans}
  record = {**_FORMAT, "data": prepared.settings(config), "splits": splits}
  path = out / PREPARATION
  if path.exists() and (out / prepared.REPORTS).exists():  # some work is done
    try:
      before = json.loads(path.read_text())
    except ValueError:
      before = {}
    if before != json.loads(json.dumps(record)):
      raise ConfigError(f"--out={out}: {_difference(before, record)}; name another --out")
    return
  if (out / array_record.METADATA).exists():
    raise ConfigError(f"--out={out}: holds clips of another origin; name another --out")
  own = {PREPARATION, CORRUPT, prepared.REPORTS}
  found = {path.name for path in out.glob("[!.]*")} if out.is_dir() else set()
  if others := sorted(found - own):
    raise ConfigError(f"--out={out}: holds {others[0]}; name a new folder")
  out.mkdir(parents=True, exist_ok=True)
  prepared.replace(path, json.dumps(record, indent=2) + "\n")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """Says what of an earlier preparation is not so now."""
  try:
    for key, value in json.loads(json.dumps(now["data"])).items():
      if before["data"][key] != value:
        return f"was prepared with --{key}={before['data'][key]}, not {value}"
    if list(before["splits"]) != list(now["splits"]):
      return f"was prepared with --splits={','.join(before['splits'])}"
    for split, row in now["splits"].items():
      if before["splits"][split]["digest"] != row["digest"]:
        return f"the videos of split {split} have changed since it was begun"
    return "was prepared with another --shard_clips"
  except (KeyError, TypeError, AttributeError):
    return f"{PREPARATION} is damaged or of another version"


def check_fraction(
  config: ConfigDict, plans: Sequence[prepared.Plan], out: pathlib.Path
) -> list[dict[str, Any]]:
  """Writes corrupt.jsonl and returns its lines, from what is known so far.

  Raises DataError if a split has no clip, or more bad videos than
  `data.max_bad_fraction`.
  """
  found, refused = [], ""
  for p in plans:
    clips_lost = [
      {"split": p.split, "id": c["id"], "clip": p.lines[c["row"]]["id"],
       "error": c["error"]}
      for report in _reports(p, out) for c in report["corrupt"]
    ]  # fmt: skip
    found += [*p.left_out, *clips_lost]
    bad = len({line["id"] for line in [*p.left_out, *clips_lost]})
    where = f"split {p.split}: {bad} of {p.videos} videos are bad, see {out / CORRUPT}"
    if len(clips_lost) >= p.clips:
      refused = refused or f"{where}: no clip is left"
    elif bad > config.max_bad_fraction * p.videos:
      refused = refused or (
        f"{where}: more than data.max_bad_fraction={config.max_bad_fraction:g}; mend or"
        " remove them, or allow it with --max_bad_fraction="
        f"{np.ceil(bad / p.videos * 100) / 100:g}"
      )
  out.mkdir(parents=True, exist_ok=True)
  # ASCII only: names that are no valid UTF-8 survive as escapes.
  prepared.replace(out / CORRUPT, "".join(f"{json.dumps(line)}\n" for line in found))
  if refused:
    raise DataError(refused)
  return found


def _reports(p: prepared.Plan, out: pathlib.Path) -> list[dict[str, Any]]:
  made = (prepared.Task(str(out), "", p.split, p.digest, i, p.shards) for i in range(p.shards))
  return [report for task in made if (report := prepared.report(task)) is not None]


def finish(config: ConfigDict, plans: Sequence[prepared.Plan], out: pathlib.Path) -> None:
  """Makes complete shards a data set that training reads.

  Raises DataError if a shard is missing, or as `check_fraction` does.
  """
  reports = {p.split: _reports(p, out) for p in plans}
  for p in plans:
    if len(reports[p.split]) < p.shards:
      missing = p.shards - len(reports[p.split])
      raise DataError(f"{out}: {missing} of {p.shards} shards of {p.split} are missing")
  corrupt = check_fraction(config, plans, out)
  rows = {}
  for p in plans:
    empty = {c["row"] for report in reports[p.split] for c in report["corrupt"]}
    lines = ({**x, "frames": 0} if i in empty else x for i, x in enumerate(p.lines))
    prepared.replace(out / f"{p.split}.jsonl", "".join(f"{json.dumps(x)}\n" for x in lines))
    content = "".join(report["sha256"] for report in reports[p.split])
    rows[p.split] = {
      "files": [report["file"] for report in reports[p.split]], "count": p.clips,
      "height": config.size, "width": config.size, "fps": p.fps, "in_blocks": True,
      "content": hashlib.sha256(content.encode()).hexdigest(),
    }  # fmt: skip
  array_record.store_metadata(out, rows)
  shards = {
    report["file"]: {key: report[key] for key in ("sha256", "bytes", "clips")}
    for p in plans
    for report in reports[p.split]
  }
  record = {
    **_FORMAT, "data": prepared.settings(config), "corrupt": len(corrupt),
    "shards": shards,
  }  # fmt: skip
  for left in out.glob(".*.part"):  # of workers that were killed
    left.unlink(missing_ok=True)
  prepared.replace(out / MANIFEST, json.dumps(record, indent=2) + "\n")


def check(out: pathlib.Path) -> list[str]:
  """Returns what is wrong with a prepared folder, hashing every shard; [] for nothing.

  Also [] for clips in ArrayRecord that were not prepared here.
  """
  if not (out / PREPARATION).exists():
    return []
  try:
    shards = json.loads((out / MANIFEST).read_text("utf-8"))["shards"]
  except (OSError, ValueError, KeyError, TypeError):
    return [f"{out} is not complete: start the same tools.prepare command again"]
  faults = []
  for name, row in shards.items():
    path = out / name
    if not path.is_file():
      faults.append(f"{name} is missing")
    elif path.stat().st_size != row["bytes"] or prepared.sha256(path) != row["sha256"]:
      faults.append(f"{name} is not as {MANIFEST} has it")
  return faults


def flags(out: pathlib.Path) -> tuple[str, ...]:
  """Returns the flags by which training takes the clips as they were cut."""
  try:
    data = json.loads((out / PREPARATION).read_text("utf-8"))["data"]
    kept = {**{key: data[key] for key in ("frames", "size")}, "stride": 1}
  except (OSError, ValueError, KeyError, TypeError):
    return ()
  return tuple(f"--config.data.{key}={value}" for key, value in kept.items())
