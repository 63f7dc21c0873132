# SPDX-License-Identifier: Apache-2.0
"""LaMD's trade-off: what beta and d, the channels of z_m, do to both of its stages.

    python -m benchmarks.lamd_tradeoff --out=runs/tradeoff

The paper's finding: a tighter bottleneck (larger beta, fewer channels) rebuilds worse and
generates better. Each cell BETA:D is a run of the demo by the real command, in a folder
of its own; the same command again goes on where it was broken off, and a finished cell
is only read. What follows `--` is passed on, e.g. `-- --eval.clips=64
--config.optim.motion_autoencoder.steps=300`. A cell of the demo takes some twenty minutes
on two cores.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

from benchmarks import harness

CONFIG = "configs/lamd_cater_gen_v1.py:demo"
CELLS = ("1e-5:4", "3e-4:4", "1e-2:4", "3e-4:1")
STAGE = "motion_autoencoder"


def command(cell: str, folder: pathlib.Path, config: str, more: list[str]) -> list[str]:
  """The command that trains and scores a cell."""
  beta, channels = cell.split(":")
  return [
    sys.executable, "-m", "lamd_jax.main", f"--config={config}", f"--workdir={folder}",
    f"--config.loss.kl_weight={float(beta)}",
    f"--config.model.motion.autoencoder.latent_channels={int(channels)}",
    *more,
  ]  # fmt: skip


def folder_of(out: pathlib.Path, cell: str) -> pathlib.Path:
  return out / f"beta_{cell.replace(':', '_d_')}"


def row(cell: str, folder: pathlib.Path) -> tuple[str, ...]:
  """A line of the table, of a cell that has been scored."""
  report = json.loads((folder / "eval" / "report.json").read_text())
  last = (folder / STAGE / "metrics.jsonl").read_text().splitlines()[-1]
  rebuilt, made = report["reconstruction"], report["generation"]["generated"]
  floor = report["generation"]["other real clips"]["total"]
  beta, channels = cell.split(":")
  low, high = rebuilt["psnr_interval"]
  cells = [
    beta, channels, f"{json.loads(last)['kl_nats']:.0f}",
    f"{rebuilt['psnr']:.2f} [{low:.2f}, {high:.2f}]",
    f"{made['total']:.1f} [{made['interval']['total'][0]:.1f},"
    f" {made['interval']['total'][1]:.1f}]",
    f"{floor:.1f}",
  ]  # fmt: skip
  following = report.get("caption_following")
  if following:
    for name in ("reconstructed", "generated"):
      found = following[name]["matched"]["combined"]
      low, high = found["interval"]
      cells.append(f"{found['mean']:.2f} [{low:.2f}, {high:.2f}]")
  return tuple(cells)


HEAD = ("beta", "d", "KL, nats a clip", "reconstruction, dB", "generation, distance",
        "its floor", "caption score, rebuilt", "caption score, generated")  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument("--config", default=CONFIG)
  parser.add_argument("--cells", nargs="+", default=list(CELLS), metavar="BETA:D")
  parser.add_argument("--read", action="store_true", help="train nothing, read what is")
  parser.add_argument("more", nargs="*", help="after --, for lamd_jax.main")
  flags = parser.parse_args()
  print(harness.machine(), flush=True)
  rows = []
  for cell in flags.cells:
    folder = folder_of(flags.out, cell)
    scored = (folder / "eval" / "report.json").is_file()
    if not scored and not flags.read:
      done = subprocess.run(
        command(cell, folder, flags.config, flags.more), check=False
      )
      if done.returncode:
        raise SystemExit(f"{cell} stopped with code {done.returncode}")
      scored = True
    if scored:
      rows.append(row(cell, folder))
  head = HEAD[: len(rows[0])] if rows else HEAD
  print(harness.table(head, rows))


if __name__ == "__main__":
  main()
