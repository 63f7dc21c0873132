# SPDX-License-Identifier: Apache-2.0
"""The notebooks: pairs in step, settings that hold, and, slow, each one executed."""

import ast
import base64
import io
import json
import os
import pathlib
import re
import sys

from PIL import Image
import pytest

from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import eval_checks
from lamd_jax import sample_checks
from lamd_jax import validation

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
NAMES = [
  "gen1_editing", "lamd_motion_transfer", "lvdm_long_video", "own_videos", "quickstart",
  "tpu",
]  # fmt: skip
each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def _cells(text):
  """Splits py:percent into (kind, source), as a notebook has them."""
  found = []
  for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
    first, _, rest = part.partition("\n")
    rest = rest.strip("\n")
    if first.strip() == "[markdown]":
      rest = re.sub(r"^# ?", "", rest, flags=re.MULTILINE)
    found.append(("markdown" if first.strip() else "code", rest))
  return found


def _notebook(source):
  return json.loads(source.with_suffix(".ipynb").read_text("utf-8"))


def _code(source):
  return [text for kind, text in _cells(source.read_text("utf-8")) if kind == "code"]


def test_all_are_there():
  assert [path.stem for path in SOURCES] == NAMES
  pairs = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
  assert pairs == NAMES


@each
def test_a_pair_is_in_step(source):
  stored = [
    (cell["cell_type"], "".join(cell["source"])) for cell in _notebook(source)["cells"]
  ]
  assert stored == _cells(source.read_text("utf-8")), (
    f"run: jupytext --to ipynb --update notebooks/{source.name}"
  )


@each
def test_nothing_is_stored_but_sources(source):
  text = source.with_suffix(".ipynb").read_text("utf-8")
  for cell in json.loads(text)["cells"]:
    if cell["cell_type"] == "code":
      assert cell["outputs"] == [] and cell["execution_count"] is None
  # Folders of whoever wrote it; /content and /dev are Colab's and Linux's own.
  assert not re.search(r"(?<![\w.])/(home|root|tmp|work|opt|Users|mnt)/", text)


@each
def test_every_cell_compiles(source):
  for text in _code(source):
    compile(text, source.name, "exec")
  assert max(map(len, source.read_text("utf-8").splitlines())) <= 88


def test_the_first_code_cell_is_the_same():
  first = {_code(source)[0] for source in SOURCES}
  assert len(first) == 1
  names = {
    target.id: ast.literal_eval(node.value)
    for node in ast.parse(first.pop()).body if isinstance(node, ast.Assign)
    for target in node.targets
    if isinstance(target, ast.Name) and target.id in ("ADDRESS", "TAG")
  }  # fmt: skip
  version = re.search(r'version="(.+?)"', (ROOT / "setup.py").read_text("utf-8"))
  assert names["TAG"] == f"v{version.group(1)}"
  assert names["ADDRESS"].startswith("https://github.com/")


def test_the_first_cell_finds_a_checkout_and_installs_nothing(
  monkeypatch, capfd, tmp_path
):
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.setenv("PATH", os.environ["PATH"])
  monkeypatch.chdir(ROOT / "notebooks")
  first = _code(SOURCES[0])[0]
  first, marker, _ = first.rpartition("# Asked in a process")
  assert marker  # what follows starts JAX, which the slow test does
  exec(compile(first, "first cell", "exec"), {})
  assert pathlib.Path.cwd() == ROOT
  assert "inside a checkout: nothing is installed" in capfd.readouterr().out
  monkeypatch.chdir(tmp_path)
  if "OWNER" in first.partition("TAG")[0]:
    with pytest.raises(RuntimeError, match="names no owner"):
      exec(compile(first, "first cell", "exec"), {})


def _settings(source, monkeypatch, fast, folder):
  """Runs the cells of settings alone; returns what they name."""
  monkeypatch.setenv("LAMD_NOTEBOOK_FAST", "1" if fast else "0")
  monkeypatch.setenv("TMPDIR", str(folder))
  monkeypatch.setattr("tempfile.tempdir", None)
  space = {"os": os, "pathlib": pathlib, "sys": sys}
  for text in _code(source):
    if re.search(r"^(CONFIG|FAST) = ", text, flags=re.MULTILINE):
      exec(compile(text, source.name, "exec"), space)
  return space


@each
@pytest.mark.parametrize("fast", [False, True], ids=["normal", "fast"])
def test_settings_describe_a_run(source, fast, monkeypatch, tmp_path):
  """Their flags are keys, and the config that comes of them is one that runs."""
  found = _settings(source, monkeypatch, fast, tmp_path)
  assert found["RUNS"].is_absolute() == fast
  line = command_line.parse([*found["FLAGS"], *found.get("SCORE", [])])
  config = command_line.load_config(str(ROOT / found["CONFIG"]))
  command_line.apply(config, "config", line)
  sample = config_lib.sample_defaults()
  sample.update(found.get("SAMPLE", {}))
  validation.check_config(config, 1)
  sample_checks.check_sample(sample.lock(), config)
  scores = command_line.apply(config_lib.eval_defaults(), "eval", line)
  eval_checks.check_eval(scores, config)


def _shown(cells):
  """The animations among outputs, as [(frames, width)]."""
  found = []
  for cell in cells:
    for output in cell.get("outputs", []):
      html = "".join(output.get("data", {}).get("text/html", ""))
      for data in re.findall(r'src="data:image/webp;base64,([^"]+)"', html):
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
          found.append((picture.n_frames, picture.width))
  return found


@pytest.mark.slow
@each
def test_a_notebook_runs(source, monkeypatch, tmp_path):
  """In its fast setting, by a kernel of this Python."""
  reason = "notebooks are executed with pip install -e '.[notebooks]'"
  nbclient = pytest.importorskip("nbclient", reason=reason)
  nbformat = pytest.importorskip("nbformat", reason=reason)
  pytest.importorskip("ipykernel", reason=reason)
  monkeypatch.setenv("LAMD_NOTEBOOK_FAST", "1")
  monkeypatch.setenv("LAMD_COMPILE_CACHE", str(ROOT / ".jax_cache"))
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  book = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
  place = {"metadata": {"path": str(source.parent)}}
  nbclient.NotebookClient(
    book, timeout=600, kernel_name="python3", resources=place
  ).execute()
  for cell in book.cells:
    for output in cell.get("outputs", []):
      assert "Traceback" not in output.get("text", "")
  if source.stem != "tpu":  # which shows no clip
    shown = _shown(book.cells)
    assert len(shown) >= 3 and all(frames > 1 for frames, _ in shown), shown
