# SPDX-License-Identifier: Apache-2.0
"""tools.fit: what is done is not done again, what is not done says so."""

from __future__ import annotations

import json

from lamd_jax.tools import fit

ARGUMENTS = ("--configs=configs/lvdm_sky.py", "--topologies=v5e:2x2,v5p:2x2x1",
             "--meshes=fsdp,data=2+fsdp=2", "--batches=4")  # fmt: skip


def _fake(calls):
  def measure(cell):
    calls.append(cell)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return [{"program": "train diffusion", "fits": cell.mesh == "fsdp",
             "needed": 20 * 2**30, "available": 16 * 2**30}]  # fmt: skip

  return measure


def test_a_broken_off_table_is_filled_up(tmp_path, monkeypatch, capsys):
  out, calls = tmp_path / "fit.jsonl", []
  monkeypatch.setattr(fit, "measure", _fake(calls))
  arguments = [f"--out={out}", *ARGUMENTS]
  try:
    fit.main(arguments)
  except KeyboardInterrupt:
    pass
  assert len(out.read_text().splitlines()) == 2
  with out.open("a") as file:
    file.write('{"cell": ["configs/lvdm')  # cut off while it was written
    file.write("\n")
  assert fit.main(arguments) == 0
  assert len(calls) == 5  # the third was asked for twice
  assert len(fit.done(out)) == 4
  assert fit.main(arguments) == 0 and len(calls) == 5
  text = capsys.readouterr().out
  assert "| lvdm_sky | v5e:2x2 | data=2,fsdp=2 | 4 | train diffusion | 20.0 of 16.0" in text


def test_cells_without_a_row_say_not_run():
  _, cells = fit.parse(["--out=x", *ARGUMENTS])
  assert fit.table({}, cells).count("not run") == len(cells) == 4


def test_wrong_arguments_are_one_line(capsys):
  assert fit.main(["--out=x"]) == 2
  assert capsys.readouterr().err.count("\n") == 1


def test_a_row_survives_its_file(tmp_path):
  cell = fit.Cell("a.py", "v5e:2x2", "fsdp", 8)
  out = tmp_path / "fit.jsonl"
  out.write_text(json.dumps({"cell": cell, "stages": []}) + "\n")
  assert fit.done(out) == {cell: []}
