# SPDX-License-Identifier: Apache-2.0
"""The table of LaMD's trade-off: what it asks of a cell, and what it reads of one."""

import json
import sys

import pytest

from benchmarks import lamd_tradeoff


def _scored(folder, psnr):
  (folder / "eval").mkdir(parents=True)
  (folder / lamd_tradeoff.STAGE).mkdir()
  lines = [json.dumps({"kl_nats": value}) for value in (900.0, 115.6)]
  (folder / lamd_tradeoff.STAGE / "metrics.jsonl").write_text("\n".join(lines) + "\n")
  report = {
    "reconstruction": {"psnr": psnr, "psnr_interval": [29.0, 31.0]},
    "generation": {
      "generated": {"total": 50.4, "interval": {"total": [46.9, 53.9]}},
      "other real clips": {"total": 0.15},
    },
  }
  (folder / "eval" / "report.json").write_text(json.dumps(report))


def test_a_cell_is_a_run_of_its_own():
  made = lamd_tradeoff.command("1e-2:3", "here", "a.py", ["--eval.clips=8"])
  assert "--config.loss.kl_weight=0.01" in made
  assert "--config.model.motion.autoencoder.latent_channels=3" in made
  assert made[-1] == "--eval.clips=8"


def test_scored_cells_are_read_and_not_run_again(tmp_path, monkeypatch, capsys):
  _scored(lamd_tradeoff.folder_of(tmp_path, "1e-2:3"), 30.0)
  monkeypatch.setattr(sys, "argv", ["x", f"--out={tmp_path}", "--cells", "1e-2:3"])
  monkeypatch.setattr(lamd_tradeoff.subprocess, "run", None)
  lamd_tradeoff.main()
  last = capsys.readouterr().out.splitlines()[-1]
  assert last == (
    "| 1e-2 | 3 | 116 | 30.00 [29.00, 31.00] | 50.4 [46.9, 53.9] | 0.1 |"
  )


def test_a_cell_that_fails_stops_the_rest(tmp_path, monkeypatch):
  monkeypatch.setattr(
    sys, "argv",
    ["x", f"--out={tmp_path}", "--config=absent.py", "--cells", "1e-2:3", "1e-5:3"],
  )  # fmt: skip
  with pytest.raises(SystemExit, match="1e-2:3 stopped with code"):
    lamd_tradeoff.main()
