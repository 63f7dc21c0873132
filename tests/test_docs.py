# SPDX-License-Identifier: Apache-2.0
"""What README and docs name exists: files, functions, commands, flags, keys, code."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import pathlib
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

import pytest

from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import limits
from lamd_jax import sample_checks
from lamd_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [p for p in PAGES if not {"_build", "generated"} & set(p.relative_to(ROOT).parts)]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.M | re.S)
SHELL = ("", "bash", "sh")  # the languages of fences that hold commands
ROOTS = ("lamd_jax", "configs", "notebooks", "tests", "launch", "benchmarks", "docs")
_SUFFIXES = (".py", ".mp4", ".safetensors", ".json", ".csv")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*(\.\w+)?|.*\b(FILE|CONFIG)\b.*")


def _name(page: pathlib.Path) -> str:
  return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=_name)


@functools.cache
def _generator():
  spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # NamedTuple and dataclasses look it up
  spec.loader.exec_module(module)
  return module


class Page(NamedTuple):
  """A page taken apart."""

  prose: str  # without fenced blocks
  blocks: list[tuple[str, str]]  # (language, text)
  spans: list[str]  # `inline code`


def _read(page: pathlib.Path) -> Page:
  text = page.read_text("utf-8")
  prose = FENCE.sub("", text)
  blocks = [(m.group(1), m.group(2)) for m in FENCE.finditer(text)]
  # A table's cell has its bars escaped.
  spans = [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", prose)]
  return Page(prose, blocks, spans)


# Links and names.


@each_page
def test_relative_links_lead_somewhere(page):
  generated = set(_generator().PAGES)
  for target in re.findall(r"\]\(([^)\s]+)\)", _read(page).prose):
    if re.match(r"[a-z]+:", target):
      continue
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    if found.parent == DOCS / "generated":
      assert found.stem in generated, f"{target}: no such generated page"
      continue
    assert found.exists(), f"{target}: is not there"
    if anchor and found.suffix == ".md":
      heads = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.M)
      slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in heads}
      assert anchor in slugs, f"{target}: no such heading, there are {sorted(slugs)}"


@functools.cache
def _definitions(path: pathlib.Path) -> frozenset[str]:
  """Names that a file defines: functions, classes, their members, variables."""
  found = set()

  def visit(body: list[ast.stmt], prefix: str) -> None:
    for node in body:
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        found.add(prefix + node.name)
      if isinstance(node, ast.ClassDef):
        visit(node.body, f"{prefix}{node.name}.")
      targets = []
      if isinstance(node, ast.Assign):
        targets = node.targets
      elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
      found.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

  visit(ast.parse(path.read_text("utf-8")).body, "")
  return frozenset(found)


def _named_files(spans: list[str]) -> list[tuple[str, str]]:
  """Pairs (path, name in it) of the spans that name a file of the repository."""
  found = []
  for span in spans:
    path, _, inside = span.partition("::")
    if re.fullmatch(rf"({'|'.join(ROOTS)})(/[\w.*-]+)+/?", path):
      found.append((path, inside))
  return found


@each_page
def test_named_files_and_functions_exist(page):
  for path, inside in _named_files(_read(page).spans):
    matches = list(ROOT.glob(path.rstrip("/")))
    assert matches, f"`{path}`: no such file"
    if inside:
      assert inside in _definitions(matches[0]), f"`{path}` defines no {inside}"


def _module_file(module: str) -> pathlib.Path | None:
  base = ROOT.joinpath(*module.split("."))
  for path in (base.with_suffix(".py"), base / "__init__.py"):
    if path.is_file():
      return path
  return None


@each_page
def test_named_modules_exist(page):
  """`lamd_jax.x.y` and `tools.x`: a module, or a name that a module defines."""
  for span in _read(page).spans:
    name = re.match(r"((?:lamd_jax|tools)(?:\.\w+)+)(?![\w/])", span)
    if name is None or span.startswith("lamd_jax/"):
      continue
    dotted = name.group(1)
    dotted = f"lamd_jax.{dotted}" if dotted.startswith("tools") else dotted
    if _module_file(dotted):
      continue
    module, _, last = dotted.rpartition(".")
    path = _module_file(module)
    assert path is not None, f"`{span}`: no module {module}"
    known = _definitions(path)
    if module == "lamd_jax":
      known |= set(ast.literal_eval(re.search(r"__all__ = (.*)", path.read_text())[1]))
    assert last in known, f"`{span}`: {module} has no {last}"


# Commands.


def _commands(page: pathlib.Path) -> list[str]:
  """Command lines of shell fences and of inline code, continued lines joined."""
  parts = _read(page)
  lines = []
  for language, text in parts.blocks:
    if language in SHELL:
      lines += re.sub(r"\\\n\s*", " ", text).splitlines()
  spans = re.findall(r"`((?:python -m |launch/\w+\.sh )[^`]+)`", parts.prose)
  lines += [" ".join(span.replace("\\|", "|").split()) for span in spans]
  lines += re.findall(r"^    (.*)$", re.sub(r"\\\n\s*", " ", parts.prose), re.M)
  return [part.strip() for line in lines for part in line.split(" && ") if part.strip()]


def _check_main(arguments: list[str]) -> None:
  line = command_line.parse(arguments)
  tree = config_lib.defaults()
  if line.config and not PLACEHOLDER.fullmatch(line.config.partition(":")[0]):
    name, colon, variant = line.config.partition(":")
    tree = command_line.load_config(f"{ROOT / name}{colon}{variant}")
  command_line.apply(tree.copy_and_resolve_references(), "config", line)
  for group, defaults in (
    ("sample", config_lib.sample_defaults), ("eval", config_lib.eval_defaults),
    ("compile", config_lib.compile_defaults),
  ):  # fmt: skip
    values = command_line.apply(defaults(), group, line)
    for key, value in limits.leaves(values):
      limits.check_leaf(group, key, value)
    if group == "sample":
      assert set(sample_checks.formats(values, ())) <= set(sample_checks.FORMATS)


def _flags_of(module: str) -> set[str]:
  """Flags that a tool's file, and the files that go with it, write out."""
  path = _module_file(module)
  sources = [path, *path.parent.glob(f"{path.stem}_*.py"),
             *path.parent.glob("conversion.py")]  # fmt: skip
  found = {"--help"}
  for source in sources:
    text = source.read_text("utf-8")
    found |= {
      node.value for node in ast.walk(ast.parse(text))
      if isinstance(node, ast.Constant) and isinstance(node.value, str)
      and re.fullmatch(r"--[a-z][\w-]*", node.value)
    }  # fmt: skip
    # tools.fit lists the names of its flags.
    for names in re.findall(r"_FLAGS = \((.*?)\)", text):
      found |= {f"--{name}" for name in re.findall(r'"(\w+)"', names)}
  return found


def _required_of(module: str) -> set[str]:
  """Flags that a tool, of one file and without parts, does not do without."""
  calls = [n for n in ast.walk(ast.parse(_module_file(module).read_text("utf-8")))
           if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("add_argument")]  # fmt: skip
  return {
    call.args[0].value for call in calls for k in call.keywords
    if k.arg == "required" and call.args[0].value.startswith("--")
  }  # fmt: skip


def _check_launcher(words: list[str]) -> None:
  script = ROOT / words[0]
  assert script.is_file(), f"{words[0]}: no such script"
  split = words.index("--") if "--" in words else len(words)
  text = script.read_text("utf-8")
  for flag in (w for w in words[1:split] if w.startswith("--")):
    assert f"{flag.partition('=')[0]})" in text, f"{words[0]} has no {flag}"
  _check(words[split + 1 :])


def _check(words: list[str]) -> None:
  if not words:
    return
  if words[0].startswith("launch/"):
    _check_launcher(words)
    return
  if words[0] in ("sphinx-build", "pytest"):
    assert all((ROOT / w).exists() for w in words[1:] if re.match(r"(docs|tests)\b(?!/_)", w))
    return
  if words[0] not in ("python", "python3") or words[1:2] != ["-m"]:
    return
  module, arguments = words[2], words[3:]
  if module.split(".")[0] not in ("lamd_jax", "benchmarks"):
    return
  assert _module_file(module), f"python -m {module}: no such module"
  if module == "lamd_jax.main":
    if "--help" not in arguments and "--helpfull" not in arguments:
      _check_main(arguments)
  else:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    _check_main(arguments[split + 1 :])  # a benchmark passes them on
    arguments = arguments[:split]
    known = _flags_of(module)
    given = {argument.partition("=")[0] for argument in arguments}
    if arguments and "--help" not in given and module != "lamd_jax.tools.convert":
      missing = _required_of(module) - given
      assert not missing, f"{module} needs {', '.join(sorted(missing))}"
    if module == "lamd_jax.tools.prepare":  # takes the keys of the data group
      known |= {f"--{key}" for key in config_lib.defaults().data}
    for argument in (a for a in arguments if a.startswith("--")):
      if argument.startswith("--config."):
        _check_main([argument])
      else:
        flag = argument.partition("=")[0]
        assert flag in known, f"{module} has no {flag}"
    if module == "lamd_jax.tools.convert" and arguments and arguments[0][0] != "-":
      parts = (ROOT / "lamd_jax/tools/convert.py").read_text("utf-8")
      assert f'"{arguments[0]}": ' in parts, f"convert has no part {arguments[0]}"


@each_page
def test_commands_parse(page):
  for command in _commands(page):
    try:
      words = shlex.split(command, comments=True)
      _check([w for w in words if w not in ("|", "...")])
    except ConfigError as error:
      pytest.fail(f"{command}\n{error}")
    except (AssertionError, ValueError) as error:
      raise AssertionError(f"{command}\n{error}") from error


def test_faulty_commands_are_found():
  """The checks above can fail."""
  for command in (
    "python -m lamd_jax.main --config=configs/lvdm_skye.py",
    "python -m lamd_jax.main --config=configs/lvdm_sky.py:demox",
    "python -m lamd_jax.main --workdir=RUN --sample.stepz=3",
    "python -m lamd_jax.main --workdir=RUN --sample.sampler=dimm",
    "python -m lamd_jax.main --workdir=RUN --mode=eval",
    "python -m lamd_jax.tools.nothing DIR",
    "python -m lamd_jax.tools.score --reall X",
    "python -m lamd_jax.tools.convert i4d --source X",
    "python -m benchmarks.lamd_tradeoff --cells 1e-5:4 -- --eval.clips=8",
    "python -m benchmarks.lamd_tradeoff --out=X -- --eval.clipz=8",
    "python -m benchmarks.first_step --stages=X",
    "launch/tpu_pod.sh --zoone x -- true",
    "launch/slurm.sh --name x -- python -m lamd_jax.main --modee=train",
  ):
    with pytest.raises((AssertionError, ConfigError)):
      _check(shlex.split(command))


@each_page
def test_extras_are_installable(page):
  tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
  extras = {
    key.value for node in ast.walk(tree) if isinstance(node, ast.keyword)
    and node.arg == "extras_require" for key in node.value.keys
  }  # fmt: skip
  for named in re.findall(r"pip install[^\n`]*?\.\[([\w,]+)\]", page.read_text("utf-8")):
    assert set(named.split(",")) <= extras, f"[{named}]: setup.py has {sorted(extras)}"


# Inline keys and flags, and Python.


@each_page
def test_named_keys_and_flags_exist(page):
  """`data.size`, `--config.data.size=3`, `--sample.steps`: with values that are allowed."""
  keys = dict(limits.leaves(config_lib.defaults()))
  groups = {key.split(".")[0] for key in keys if "." in key}
  inner = {key.rsplit(".", n)[0] for key in keys for n in range(1, key.count(".") + 1)}
  for span in _read(page).spans:
    for word in re.findall(r"--(?:config|sample|eval|compile)\.\S+", span):
      if re.search(r"KEY|STAGE|\*|\||=$|=[A-Z]$", word):
        continue  # a pattern, a choice or a placeholder
      _check_main([word] if "=" in word else [word, _default(word)])
    key = re.fullmatch(r"([a-z_0-9]+(?:\.[a-z_0-9]+)+)(=.*)?", span)
    if key and key.group(1).split(".")[0] in groups and not span.endswith(_SUFFIXES):
      assert key.group(1) in keys or key.group(1) in inner, f"`{span}`: no such key"


def _default(flag: str) -> str:
  """A value that the flag takes, as text."""
  group, _, key = flag.removeprefix("--").partition(".")
  trees = {
    "config": config_lib.defaults, "sample": config_lib.sample_defaults,
    "eval": config_lib.eval_defaults, "compile": config_lib.compile_defaults,
  }  # fmt: skip
  values = dict(limits.leaves(trees[group]()))
  assert key in values, f"`{flag}`: no such key"
  value = values[key]
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _python_blocks(page: pathlib.Path) -> list[str]:
  return [text for language, text in _read(page).blocks if language == "python"]


@each_page
def test_python_blocks_compile_and_name_what_exists(page):
  blocks = _python_blocks(page)
  if not blocks:
    return
  import lamd_jax
  from lamd_jax import api

  knobs = set(config_lib.sample_defaults()) | {"callback", "progress", "mask", "depth"}
  for text in blocks:
    tree = ast.parse(text)
    known = {"lamd_jax": lamd_jax, "model": api.Model}
    for node in ast.walk(tree):
      if isinstance(node, ast.ImportFrom):
        module = importlib.import_module(node.module)
        known |= {a.asname or a.name: getattr(module, a.name) for a in node.names}
    for node in ast.walk(tree):
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = known.get(node.value.id)
        assert owner is None or hasattr(owner, node.attr), ast.unparse(node)
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        function = getattr(api.Model, node.func.attr, None)
        if function is not None:
          allowed = knobs | set(inspect.signature(function).parameters)
          for keyword in node.keywords:
            assert keyword.arg in allowed, f"{node.func.attr}({keyword.arg}=)"


# What is generated.


def test_generated_pages_name_every_key_with_its_default():
  module = _generator()
  config, flags = module.config_page(), module.flags_page()
  for key, value in limits.leaves(config_lib.defaults()):
    told = f"| `{key}` | {module._value(value)} |"
    if key.startswith("optim."):  # one table, and what is otherwise in a line below it
      stage, name = key.split(".")[1:]
      told = f"| `{name}` | {module._value(value)} |"
      told = told if told in config else f"`{stage}.{name}` {module._value(value)}"
    assert told in config, key
  for group, tree in (
    ("sample", config_lib.sample_defaults()), ("eval", config_lib.eval_defaults()),
    ("compile", config_lib.compile_defaults()),
  ):  # fmt: skip
    for key, value in limits.leaves(tree):
      assert f"| `--{group}.{key}` | {module._value(value)} |" in flags, key
  assert "2,147,483,647" in config and "| `data.frames` | `16` |" in config
  assert "T of a clip" in config  # a comment behind its key
  assert "Of the clips that train the autoencoder" in config  # one above it
  for page in module.PAGES.values():
    assert page().startswith("<!--")


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
  pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
  for package in ("myst_parser", "furo"):
    pytest.importorskip(package, reason="the extra `docs` is not installed")
  done = subprocess.run(
    [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path / "html"],
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-4000:]
  assert "lamd_jax.load" in (tmp_path / "html/reference/python.html").read_text("utf-8")
