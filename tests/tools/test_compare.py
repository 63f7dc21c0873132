# SPDX-License-Identifier: Apache-2.0
"""The page of two runs shows both, names what differs and escapes what it quotes."""

import html
import json
import re
import urllib.parse

from etils import epath
import numpy as np
import pytest
import tiny

from lamd_jax import gallery
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax.tools import compare


def _make(folder, caption, score, losses, clips=2, **overrides):
  run_folder.write(epath.Path(folder), tiny.config(**overrides))
  report = {
    "protocol": {"name": "simple"}, "protocol_hash": "ab12",
    "generation": {"generated": {"total": score, "interval": {"total": [1.0, 9.0]}}},
  }  # fmt: skip
  (folder / "eval").mkdir()
  (folder / "eval" / "report.json").write_text(json.dumps(report))
  frames = np.zeros((clips, 4, 16, 16, 3), np.uint8)
  column = gallery.Column("generated", frames, {"PSNR <x>": np.arange(clips) + score})
  other = gallery.Column("real", frames, {"of real clips": np.ones(clips)})
  gallery.write(folder / "gallery", "t", [other, column], [], {}, 8.0, [caption])
  (folder / "diffusion").mkdir()
  rows = [
    {"step": 10 * i, "seconds": i, "loss/denoiser": x, "loss/critic": -x}
    for i, x in enumerate(losses)
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1'
  (folder / "diffusion" / "metrics.jsonl").write_text(text)
  return folder


@pytest.fixture
def runs(tmp_path):
  return (
    _make(tmp_path / "run <a>", "a & <b>dog", 8.5, [1.0, 0.5], seed=1),
    _make(tmp_path / "b", "a & <b>dog", 2.5, [1.0, 0.25], clips=1),
  )


def test_the_page_shows_both_runs(runs, tmp_path):
  out = tmp_path / "p #1" / "my page.html"
  assert compare.main([*map(str, runs), f"--out={out}"]) == 0
  text = out.read_text("utf-8")
  sources = re.findall(r'video src="([^"]+)"', text)
  assert len(sources) == 3
  for source in sources:
    assert media.read_video(out.parent / urllib.parse.unquote(source))[0].shape[0] == 4
  assert "8.5 [1, 9]" in text and "2.5 [1, 9]" in text and "simple ab12" in text
  assert "a &amp; &lt;b&gt;dog" in text and "<b>" not in text and "<a>" not in text
  assert text.count("a &amp; &lt;b&gt;dog") == 1  # one caption for both
  assert text.count("<polyline") == 2 and "diffusion: denoiser" in text
  # Of each clip its own score, as the gallery has it; a choice for each run.
  data = [json.loads(html.unescape(x)) for x in re.findall(r'data-scores="(.*?)"', text)]
  assert data == [{"PSNR <x>": 8.5}, {"PSNR <x>": 2.5}, {"PSNR <x>": 9.5}]
  assert re.findall(r"<option data-column=(\d)", text) == ["0", "1"]
  assert "critic" not in text  # negative, which the plot cannot show
  assert not list(out.parent.glob(".*"))


def test_runs_without_generated_clips_say_so(runs, tmp_path):
  for run in runs:
    for path in (run / "gallery").iterdir():
      path.unlink()
  page = compare.compare([str(run) for run in runs], tmp_path / "x.html")
  text = page.read_text("utf-8")
  assert "Neither run has generated clips" in text and "<select" not in text


def test_only_settings_that_differ_are_listed(runs):
  table = compare.settings(compare._open([str(run) for run in runs]))
  assert table.rows == [("seed", "1", "0")]
  same = compare.settings(compare._open([str(runs[0])] * 2))
  assert not same.rows and "equal" in same.note


def test_a_run_without_scores_has_dashes(runs, tmp_path):
  (runs[1] / "eval" / "report.json").unlink()
  (table,) = compare.scores(compare._open([str(run) for run in runs]))
  assert table.rows == [("generation; generated", "8.5 [1, 9]", "-")]
  (runs[0] / "eval" / "report.json").unlink()
  page = compare.compare([str(run) for run in runs], tmp_path / "x.html")
  assert "Neither run was scored" in page.read_text("utf-8")


def test_mistakes_are_one_line(runs, tmp_path, capsys):
  for arguments, words in (
    ([str(runs[0]), str(tmp_path / "none"), "--out=x.html"], "holds no run"),
    ([str(runs[0]), str(runs[1]), "--out=x.txt"], "must end in .html"),
  ):
    assert compare.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
