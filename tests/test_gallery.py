# SPDX-License-Identifier: Apache-2.0
"""The page names every clip it shows, escapes text and leaves no partial file."""

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
