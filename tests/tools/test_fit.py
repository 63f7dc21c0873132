# SPDX-License-Identifier: Apache-2.0
"""tools.fit with a compiler made up of two numbers: lines, confirmation, going on."""

from __future__ import annotations

import pytest

from lamd_jax.tools import fit

GIB = 2**30
ROOM = 16 * GIB
CELL = fit.Cell("configs/lvdm_sky.py", "diffusion", "v5e:2x2", "fsdp")


class Compiler:
  """Memory is `held` + `each` x clips; a fast program needs a tenth more."""

  def __init__(self, held, each, breaks_at=0, fast=1.1):
    self.held, self.each, self.fast, self.breaks_at = held, each, fast, breaks_at
    self.calls = []

  def __call__(self, cell, trial):
    self.calls.append(trial)
    if len(self.calls) == self.breaks_at:
      raise KeyboardInterrupt
    needed = (self.held + self.each * trial.clips) * GIB
    needed = round(needed * (self.fast if trial.fast else 1))
    return {"fits": needed <= ROOM, "needed": needed, "available": ROOM}


def _fill(tmp_path, compiler, cells=(CELL,), exact=True, smallest=False):
  out = tmp_path / "fit.jsonl"
  return fit.fill(out, cells, compiler, exact=exact, smallest=smallest)


def test_the_line_through_two_fast_ones_gives_the_batch_and_one_exact_confirms(tmp_path):
  # 1.1 (2 + 1.5 n) <= 16 at n <= 8.36.
  compiler = Compiler(2, 1.5)
  rows = _fill(tmp_path, compiler)
  assert compiler.calls == [(1, True), (2, True), (8, False)]
  assert fit.answer(rows[CELL]) == (8, (8, False))
  assert fit.table(rows, [CELL]).splitlines()[-1] == (
    "| lvdm_sky | diffusion | v5e:2x2 | fsdp | 8 | 14.0 of 16.0 GiB | confirmed |"
  )


def test_without_the_exact_one_the_table_says_what_it_rests_on(tmp_path):
  compiler = Compiler(2, 1.5)
  text = fit.table(_fill(tmp_path, compiler, exact=False), [CELL])
  assert len(compiler.calls) == 2
  # 1.1 x 14 GiB, on the line.
  assert text.endswith("| 8 | about 15.4 of 16.0 GiB | by fast compilations of up to 2 |")


def test_a_number_that_does_not_hold_is_lowered_by_what_was_over(tmp_path):
  # The line says 0.5 (1 + n) <= 16 at n <= 31; the truth is 1 + n <= 16.
  compiler = Compiler(1, 1, fast=0.5)
  rows = _fill(tmp_path, compiler)
  # At 31 clips 16 GiB are over. From 1 GiB at one clip to 32 at 31 a clip takes 31/30
  # GiB, more than the fast line's 0.5: 16 clips less, which is the truth.
  assert compiler.calls[2:] == [(8, True), (31, False), (15, False)]
  assert fit.answer(rows[CELL])[0] == 15


@pytest.mark.parametrize("held, clips", [(14.9, 1), (15.5, 0)])
def test_one_clip_is_asked_exactly_where_it_does_not_fit_in_a_hurry(tmp_path, held, clips):
  compiler = Compiler(held, 1)
  rows = _fill(tmp_path, compiler)
  assert compiler.calls[-1] == (1, False) and fit.answer(rows[CELL])[0] == clips
  assert ("does not fit" in fit.table(rows, [CELL])) == (clips == 0)


def test_memory_that_does_not_grow_is_not_extrapolated_without_end(tmp_path):
  compiler = Compiler(3, 0)
  rows = _fill(tmp_path, compiler, exact=False)
  assert fit.answer(rows[CELL])[0] == 512
  assert [clips for clips, _ in compiler.calls] == [1, 2, 8, 32, 128]


def test_what_the_optimizer_hides_of_few_clips_is_seen_at_more(tmp_path):
  # The update needs 3 GiB, before it n/4 clips: 1, 2 and 8 look alike, 32 does not.
  class Update(Compiler):
    def __call__(self, cell, trial):
      row = super().__call__(cell, trial)
      return row | {"needed": max(3 * GIB, row["needed"])}

  compiler = Update(0, 0.25, fast=1)
  rows = _fill(tmp_path, compiler, exact=False)
  assert [clips for clips, _ in compiler.calls] == [1, 2, 8, 32]
  # By the line from 3 GiB at 8 to 8 GiB at 32; the truth is 64.
  assert fit.answer(rows[CELL])[0] == 70
  assert fit.table(rows, [CELL]).endswith("by fast compilations of up to 32 |")


def test_one_of_many_clips_that_gets_no_number_bounds_the_others():
  row = lambda needed: {"fits": needed <= ROOM, "needed": needed, "available": ROOM}
  known = {fit.Trial(n, True): row(x) for n, x in ((1, GIB), (2, GIB), (8, 0))}
  assert fit.fast_limit(known) == 7
  assert fit.next_trial(known, exact=True) == (7, False)


def test_a_program_too_large_for_a_number_does_not_fit():
  row = {"fits": False, "needed": 0, "available": ROOM}
  known = {fit.Trial(1, True): row, fit.Trial(2, True): row}
  assert fit.fast_limit(known) == 0
  assert fit.next_trial(known, exact=True) == (1, False)


def test_what_was_broken_off_goes_on_and_nothing_is_done_twice(tmp_path, capsys):
  cells = [CELL, CELL._replace(topology="v5e:4x4")]
  broken = Compiler(2, 1.5, breaks_at=5)
  with pytest.raises(KeyboardInterrupt):
    _fill(tmp_path, broken, cells)
  with (tmp_path / "fit.jsonl").open("a") as file:
    file.write('{"cell": ["configs/lvdm\n')  # cut off while it was written
  rows = fit.read(tmp_path / "fit.jsonl")
  assert len(rows[cells[0]]) == 3 and len(rows[cells[1]]) == 1
  text = fit.table(rows, cells)
  assert text.count("confirmed") == 1 and text.endswith("|  |  | not run |")
  second = Compiler(2, 1.5)
  rows = _fill(tmp_path, second, cells)
  assert second.calls == [(2, True), (8, False)]
  assert fit.table(rows, cells).count("confirmed") == 2
  third = Compiler(2, 1.5)
  _fill(tmp_path, third, cells)
  assert not third.calls


def test_smallest_leaves_out_what_follows_the_first_slice_that_holds_a_clip(tmp_path):
  cells = [CELL._replace(topology=f"v5e:{n}x{n}") for n in (2, 4, 8)]
  seen = []

  def compiler(cell, trial):
    seen.append(cell.topology)
    small = cell.topology == "v5e:2x2"
    return Compiler(20 if small else 2, 1.5)(cell, trial)

  rows = _fill(tmp_path, compiler, cells, smallest=True)
  assert set(seen) == {"v5e:2x2", "v5e:4x4"}
  assert fit.table(rows, cells).endswith("| v5e:8x8 | fsdp |  |  | not run |")


def test_what_is_refused_is_a_row_and_asked_once(tmp_path):
  calls = []

  def compiler(cell, trial):
    calls.append(trial)
    return {"refused": "train.mesh=frames: 7 frames over 2 devices"}

  rows = _fill(tmp_path, compiler)
  assert len(calls) == 1
  assert "|  |  | train.mesh=frames: 7 frames" in fit.table(rows, [CELL])


def test_cells_are_stages_by_meshes_by_slices(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(fit, "measure", Compiler(2, 1.5))
  monkeypatch.setattr(fit.ahead, "devices", lambda topology: [])  # no compiler is needed
  arguments = [f"--out={tmp_path}/x.jsonl", "--configs=configs/lvdm_sky.py:demo",
               "--topologies=v5e:2x2,h200:8", "--meshes=fsdp,data=2+fsdp=-1",
               "--stages=diffusion"]  # fmt: skip
  assert fit.main(arguments) == 0
  rows = [x for x in capsys.readouterr().out.splitlines() if "lvdm_sky" in x]
  assert len(rows) == 4 and all("| diffusion |" in row for row in rows)
  assert "| v5e:2x2 | data=2,fsdp=-1 | 8 |" in rows[2]


@pytest.mark.parametrize(
  "flags, said",
  [(("--configs=nowhere.py", "--topologies=v5e:2x2"), "nowhere.py"),
   (("--configs=configs/lvdm_sky.py", "--topologies=v5e:2x2", "--stages=difusion"),
    "--stages=difusion: no such stage; those configs have autoencoder, diffusion"),
   (("--configs=configs/lvdm_sky.py", "--topologies=v5e:64x64"), "v5e:64x64"),
   ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_before_anything(
  tmp_path, monkeypatch, capsys, flags, said
):
  monkeypatch.setattr(fit, "measure", Compiler(2, 1.5))
  if "64x64" not in said:
    monkeypatch.setattr(fit.ahead, "devices", lambda topology: [])
  assert fit.main([f"--out={tmp_path}/x", *flags]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and said in error
  assert not (tmp_path / "x").exists()
