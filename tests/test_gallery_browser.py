# SPDX-License-Identifier: Apache-2.0
"""The pages in headless Chromium, from a file path: no error, clips play, rows sort."""

import functools
import shutil

import numpy as np
import pytest

from lamd_jax import gallery
from lamd_jax import line_plot

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if _CHROMIUM is None:
  pytest.skip("needs Chromium on the PATH", allow_module_level=True)

_PSNR = [20.0, 5.5, float("nan"), *range(30, 39)]  # of row 2 nothing is known


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  """A page of 12 rows, more than a window shows."""
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (12, 8, 32, 32, 3), np.uint8)
  scores = [("ours", "26.1 [25, 27]"), ("theirs", "9.5 [9, 10]"), ("floor", "101")]
  return gallery.write(
    tmp_path_factory.mktemp("page") / "a folder #1 of ünusual name",
    "clips <b>",
    [
      gallery.Column("real", clips),
      gallery.Column("generated", clips[::-1], {"PSNR <dB>": _PSNR}),
    ],
    [gallery.Table("scores", "", ("what", "dB"), scores)],
    {"seed": 0},
    fps=8,
    captions=[f"<script>alert({i})</script> & caption" for i in range(12)],
    plots=line_plot.svg("loss", "step", "loss", {"a <b>": [(0, 2.0), (9, 1.0)]}),
  )  # fmt: skip


@pytest.fixture
def opened(page):
  """The page in a browser, and all that the browser complained about."""
  complaints = []
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=_CHROMIUM, args=["--no-sandbox"]
    )
    tab = browser.new_page(viewport={"width": 900, "height": 500})
    tab.on("console", lambda x: complaints.append(x.text) if x.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.on("requestfailed", lambda request: complaints.append(request.url))
    tab.goto(page.as_uri())
    yield tab, complaints
    browser.close()


def test_clips_play_where_they_are_seen(opened):
  tab, complaints = opened
  state = "i => { const v = document.querySelectorAll('video')[i];" \
    " return v.readyState >= 2 && !v.paused && v.currentTime > 0 }"  # fmt: skip
  tab.wait_for_function(state, arg=0)
  assert not tab.evaluate(state, 23)  # below the window: it waits
  tab.evaluate("document.querySelectorAll('video')[23].scrollIntoView()")
  tab.wait_for_function(state, arg=23)
  tab.wait_for_function(f"!({state})(0)")
  assert complaints == []


def test_clicks_on_a_heading_sort_the_scores(opened):
  tab, complaints = opened
  names = functools.partial(
    tab.eval_on_selector_all, "tbody td:first-child", "all => all.map(x => x.innerText)"
  )
  head = tab.locator("thead th").nth(1)
  head.click()
  assert names()[:3] == ["theirs", "ours", "floor"]  # as numbers: 9.5, 26.1, 101
  head.click()
  assert names()[:3] == ["floor", "ours", "theirs"]
  assert complaints == []


def _order(tab):
  """The numbers of the captions, 0 to 11, from top to bottom."""
  texts = tab.locator("p.caption").all_inner_texts()
  return [int(text.split("(")[1].split(")")[0]) for text in texts]


def test_a_chosen_score_sorts_the_clips(opened):
  tab, complaints = opened
  playing = "() => { const v = document.querySelector('video');" \
    " return !v.paused && v.currentTime > 0 && v.src.endsWith('real_011.mp4') }"  # fmt: skip
  by, way = tab.locator(".sort select").all()
  assert tab.get_by_label("Sort the rows by").is_visible()
  by.select_option(label="generated: PSNR <dB>")
  assert _order(tab) == [11, 10, 9, 8, 7, 6, 5, 4, 3, 0, 1, 2]  # what has none is last
  tab.wait_for_function(playing)  # clips that moved into view
  way.select_option(label="lowest to highest")
  assert _order(tab) == [1, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 2]
  # All of a row moved: its clips, and the scores under them.
  names = tab.eval_on_selector_all("video", "all => all.map(x => x.getAttribute('src'))")
  assert names[:4] == [
    "real_001.mp4", "generated_001.mp4", "real_000.mp4", "generated_000.mp4"
  ]  # fmt: skip
  assert tab.locator("figcaption").nth(1).inner_text().split("\n") == [
    "generated", "PSNR <dB>", "5.5"
  ]  # fmt: skip
  by.focus()  # by keys alone
  tab.keyboard.press("Home")
  assert _order(tab) == list(range(12))
  assert complaints == []


def test_without_scripts_all_is_there_but_the_control(page):
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=_CHROMIUM, args=["--no-sandbox"]
    )
    tab = browser.new_page(java_script_enabled=False)
    tab.goto(page.as_uri())
    assert not tab.locator(".sort").is_visible()
    assert tab.locator("figcaption", has_text="PSNR <dB>").count() == 11
    assert tab.locator("dd", has_text="5.5").is_visible()
    browser.close()


def test_pictures_and_text_are_as_written(opened):
  tab, complaints = opened
  assert tab.title() == "clips <b>"
  assert tab.locator("p.caption").first.inner_text().startswith("<script>alert(0)")
  assert tab.locator("svg text", has_text="a <b>").count() == 1
  video = tab.locator("video").first
  tab.wait_for_function("document.querySelector('video').currentTime > 0")
  shot = video.screenshot()
  # Noise does not compress: an empty box of this size is a few hundred bytes.
  assert len(shot) > 5_000
  assert complaints == []
