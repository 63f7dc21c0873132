# SPDX-License-Identifier: Apache-2.0
"""The page names every clip it shows, escapes text and leaves no partial file."""

import html
import json
import re

import numpy as np

from lamd_jax import gallery
from lamd_jax import media


def test_page_shows_every_clip_and_escapes(tmp_path):
  clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
  page = gallery.write(
    tmp_path / "gallery",
    "a <b> & c",
    [gallery.Column("real", clips), gallery.Column("ours <x>", clips[:1])],
    [gallery.Table("scores", "n < 3", ("what", "dB"), [("ours", "26.1")])],
    {"seed": 0, "note": "<script>"},
    fps=8,
    captions=["a <b>caption"],
  )
  text = page.read_text("utf-8")
  sources = re.findall(r'video src="([^"]+)"', text)
  assert len(sources) == 3
  for name in sources:
    assert media.read_video(page.parent / name)[0].shape[0] == 4
  assert "a &lt;b&gt; &amp; c" in text and "<b>" not in text
  assert "a &lt;b&gt;caption" in text
  assert text.count("<script>") == 1
  assert not [p for p in page.parent.iterdir() if p.name.startswith(".")]


_STILL = np.zeros((2, 2, 16, 16, 3), np.uint8)


def _page(folder, *columns):
  page = gallery.write(
    folder, "t", columns, [], {}, fps=8, captions=["", "told"], about="what <i> is"
  )
  return page.read_text("utf-8")


def test_scores_stand_under_their_clips_and_can_be_chosen(tmp_path):
  name = 'PSNR "x" <dB>'
  text = _page(
    tmp_path,
    gallery.Column("real & true", _STILL),
    gallery.Column("made <b>", _STILL, {name: np.array([31.256, np.nan])}),
    gallery.Column("noise", _STILL[:1], {"unknown": [np.nan]}),
  )
  data = [json.loads(html.unescape(x)) for x in re.findall(r'data-scores="(.*?)"', text)]
  assert data == [{name: 31.256}]  # nan is no score, and no JSON
  assert "<dl><dt>PSNR &quot;x&quot; &lt;dB&gt;<dd>31.26</dl>" in text
  # One choice, of the second column; columns without scores offer none.
  choices = re.findall(r'<option data-column=(\d) data-score="(.*?)">([^<]*)', text)
  assert choices == [("1", html.escape(name), "made &lt;b&gt;: " + html.escape(name))]
  assert "<p class=note>what &lt;i&gt; is</p>" in text
  assert "<p class=sort hidden>" in text  # a script shows it
  assert name not in text and "made <b>" not in text
  # Rows hold as many figures as there are columns, an empty one for a missing clip.
  rows = text.split("<div class=row>")[1:]
  assert [row.count("<figure") for row in rows] == [3, 3]
  assert ["told" in row for row in rows] == [False, True]


def test_no_scores_no_control(tmp_path):
  text = _page(tmp_path, gallery.Column("real", _STILL))
  assert "<select" not in text and "data-scores=" not in text
