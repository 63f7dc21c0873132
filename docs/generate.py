# SPDX-License-Identifier: Apache-2.0
"""Writes the pages that are read off the code: keys, flags, exit codes, protocols,
data layouts.

  python docs/generate.py [FOLDER]

The build calls `write`, so that no default and no comment is typed twice. Comments are
those of lamd_jax/config.py and config_model.py: what stands behind a key or above it
belongs to the key, a line above that ends with a colon heads the keys that follow.
"""

from __future__ import annotations

import ast
import io
import pathlib
import sys
import tokenize
from typing import Any, NamedTuple

from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import config_model
from lamd_jax import errors
from lamd_jax import limits
from lamd_jax import main
from lamd_jax.data import layouts
from lamd_jax.evaluation import protocol
from lamd_jax.training import preemption

_STAGES = "optim"  # its groups have the same keys and the same defaults


class Key(NamedTuple):
  """One leaf of a config as its source tells of it."""

  name: str  # dotted
  comment: str
  heading: str  # of the keys around it, "" for none


class _Source:
  """The dicts of a config module, and the comments beside their keys."""

  def __init__(self, path: pathlib.Path, others: dict[str, _Source]):
    text = path.read_text("utf-8")
    self._others = others
    self._functions = {
      node.name: node
      for node in ast.parse(text).body
      if isinstance(node, ast.FunctionDef)
    }
    self._comments: dict[int, str] = {}
    self._whole: set[int] = set()  # lines that hold a comment alone
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
      if token.type == tokenize.COMMENT:
        words = token.string.lstrip("#").strip()
        if words.startswith("fmt:"):
          continue
        self._comments[token.start[0]] = words
        if lines[token.start[0] - 1].lstrip().startswith("#"):
          self._whole.add(token.start[0])

  def keys(self, function: str) -> list[Key]:
    """Returns the leaves of what `function` returns, in order."""
    return self._dict(self._outermost(self._functions[function]), "")

  @staticmethod
  def _outermost(node: ast.AST) -> ast.Call:
    for inner in ast.walk(node):
      if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "dict":
        return inner
    raise ValueError("no dict(...) in a function of defaults")

  def _dict(self, call: ast.Call, prefix: str) -> list[Key]:
    found, heading = [], ""
    for keyword in call.keywords:
      above, title = self._above(keyword)
      heading = title or heading
      beside = [
        self._comments[line]
        for line in range(keyword.lineno, keyword.end_lineno + 1)
        if line in self._comments and line not in self._whole
      ]
      name = f"{prefix}{keyword.arg}"
      inner = self._inner(keyword.value, f"{name}.")
      if inner is None:
        found.append(Key(name, "; ".join(filter(None, [above, *beside])), heading))
      else:
        found += inner
    return found

  def _above(self, keyword: ast.keyword) -> tuple[str, str]:
    """The comment above a key: (what it says of it, the heading that it is)."""
    lines, line = [], keyword.lineno - 1
    while line in self._whole:
      lines.insert(0, self._comments[line])
      line -= 1
    text = " ".join(lines)
    return ("", text[:-1]) if text.endswith(":") else (text, "")

  def _inner(self, value: ast.expr, prefix: str) -> list[Key] | None:
    """The leaves below a key, or None of a leaf."""
    if not isinstance(value, ast.Call):
      return None
    name = ast.unparse(value.func)
    if name == "ConfigDict":
      return self._inner(value.args[0], prefix)
    if name == "dict":
      return self._dict(value, prefix)
    module, _, function = name.rpartition(".")
    source = self._others[module] if module else self
    call = source._outermost(source._functions[function])
    return source._dict(call, prefix)


def _sources() -> _Source:
  model = _Source(pathlib.Path(config_model.__file__), {})
  return _Source(pathlib.Path(config_lib.__file__), {"config_model": model})


def _cell(text: str) -> str:
  return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _value(value: Any) -> str:
  if value == "":
    return '`""`'
  if isinstance(value, bool):
    return f"`{str(value).lower()}`"
  if isinstance(value, tuple | list):
    return f"`{','.join(map(str, value))}`"
  return f"`{value}`"


def _number(value: float) -> str:
  return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _allowed(key: Key) -> str:
  """What limits.py says of a key, unless its comment says it already."""
  name = limits.pattern(key.name)
  choices = limits.CHOICES.get(name, ())
  if not all(choice in key.comment for choice in choices):
    return ", ".join(choices)
  if name in limits.LIMITS:
    return " to ".join(map(_number, limits.LIMITS[name]))
  return ""


def _rows(keys: list[Key], values: dict[str, Any], flag: str, cut: str) -> list[str]:
  """Tables of keys, one a heading. `cut` is left out in front of names."""
  lines: list[str] = []
  before: str | None = None
  for key in keys:
    if key.heading != before:
      if key.heading:
        lines += ["", f"*{_cell(key.heading)}*"]
      lines += ["", "| key | default | allowed | |", "|---|---|---|---|"]
      before = key.heading
    name = key.name.removeprefix(cut)
    lines.append(
      f"| `{flag}{name}` | {_value(values[key.name])} | {_cell(_allowed(key))} |"
      f" {_cell(key.comment)} |"
    )
  return lines


def _apart(values: dict[str, Any], stages: list[str], first: str) -> list[str]:
  """A line on the stages whose defaults differ from those of the first."""
  differ = [
    f"`{stage}.{key.removeprefix(first)}` {_value(values[other])}"
    for key in values if key.startswith(first)
    for stage in stages
    if values[other := f"{_STAGES}.{stage}.{key.removeprefix(first)}"] != values[key]
  ]  # fmt: skip
  return ["", f"Other defaults: {', '.join(differ)}."] if differ else []


_HEAD = "<!-- Written by docs/generate.py at build time. -->\n"


def config_page() -> str:
  """Every key of --config.*: default, allowed values, comment."""
  keys = _sources().keys("defaults")
  values = dict(limits.leaves(config_lib.defaults()))
  groups: dict[str, list[Key]] = {}
  for key in keys:
    group = key.name.split(".")[0] if "." in key.name else ""
    groups.setdefault(group, []).append(key)
  lines = [
    _HEAD, "# Config keys", "",
    "Every key of a config with its default. A config file changes what its paper and"
    " data set ask for; `--config.KEY=VALUE` changes it once more. A key that does not"
    " exist stops the run in one line that names its neighbour.", "",
    "`seed`, `system` and the groups `data`, `model`, `loss` and `diffusion` say which"
    " experiment a run is: with a run in the folder they cannot be changed, but for"
    " where and how fast the data are read. The others may differ from one start to"
    " the next.",
  ]  # fmt: skip
  for group, members in groups.items():
    if group == _STAGES:
      stages = list(dict.fromkeys(key.name.split(".")[1] for key in members))
      first = f"{group}.{stages[0]}."
      members = [key for key in members if key.name.startswith(first)]
      lines += [
        "", f"## {group}", "",
        f"One group a stage, `--config.optim.STAGE.KEY`: {', '.join(stages)}.",
        *_rows(members, values, "", first),
        *_apart(values, stages, first),
      ]  # fmt: skip
    else:
      title = group or "Outside of groups"
      lines += ["", f"## {title}", *_rows(members, values, "", "")]
  return "\n".join(lines) + "\n"


def flags_page() -> str:
  """The plain flags, and --sample.*, --eval.*, --compile.*."""
  source = _sources()
  tables = (
    ("sample", "Sampling, and the knobs of `generate` and `edit` in Python.",
     config_lib.sample_defaults(), "sample_defaults"),
    ("eval", "Scores.", config_lib.eval_defaults(), "eval_defaults"),
    ("compile", "Compilation for a TPU slice that need not be there.",
     config_lib.compile_defaults(), "compile_defaults"),
  )  # fmt: skip
  lines = [
    _HEAD, "# Flags", "",
    "`python -m lamd_jax.main` takes these and [config keys](config.md). A flag is"
    " written `--NAME=VALUE` or `--NAME VALUE`; tuples are written with commas.", "",
    "```text", main.HELP.format(modes=", ".join(command_line.MODES)).strip(), "```", "",
    f"`--mode`: {', '.join(command_line.MODES)}."
    f" `--resume`: {', '.join(command_line.RESUME)}.",
  ]  # fmt: skip
  for group, words, tree, function in tables:
    values = dict(limits.leaves(tree))
    rows = _rows(source.keys(function), values, f"--{group}.", "")
    lines += ["", f"## --{group}.*", "", words, *rows]
  return "\n".join(lines) + "\n"


def exit_codes_page() -> str:
  rows = [
    (0, "Done."),
    (1, "It failed: numbers no longer finite, a full disk, an error of the program; of"
        " `--mode=compile`: something does not fit."),
    *(
      (kind.exit_code, kind.__doc__.strip())
      for kind in (errors.ConfigError, errors.DataError, errors.WeightsError)
    ),
    (preemption.EXIT_CODE, "Saved after SIGTERM; the same command goes on."),
    (130, "Ctrl-C: the last checkpoint is where the same command goes on from."),
  ]
  lines = [
    _HEAD, "# Exit codes", "",
    "What is wrong with the input is said in one line on standard error: the value, the"
    " limit, the way out; of missing data or weights also how to get them.", "", "| code | |", "|---|---|",
    *(f"| {code} | {words} |" for code, words in rows),
  ]  # fmt: skip
  return "\n".join(lines) + "\n"


def protocols_page() -> str:
  """Every preset of evaluation/protocol.py."""
  lines = [
    _HEAD, "# Protocols", "",
    "What `--protocol` of `tools.score` and `--eval.protocol` take. The hash is over all"
    " fields; `--set FIELD=VALUE` and `--eval.changes` change one, and with it name and"
    " hash. Where no score is named, the protocol scores clip"
    " by clip: see [scores](../explanation/scores.md).", "",
    "| protocol | hash | score, of | clips | resize, crop | remarks |",
    "|---|---|---|---|---|---|",
  ]  # fmt: skip
  for preset in protocol.PRESETS.values():
    titles = ", ".join(filter(None, protocol.TITLES[preset.extractor]))
    network = preset.extractor
    if "i3d" in network:
      network += f", eps {preset.epsilon:g}"
    cells = (
      f"`{preset.name}`", preset.hash(), f"{titles}: {network}" if titles else network,
      f"{preset.frames}&nbsp;frames, stride&nbsp;{preset.stride};"
      f" {preset.reals or 'all'}&nbsp;real, {preset.fakes or 'all'}&nbsp;made",
      f"{preset.resize}, {preset.crop}", preset.remarks,
    )  # fmt: skip
    lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
  fields = [name for name in protocol.Protocol.__dataclass_fields__ if name != "name"]
  lines += ["", f"Fields: {', '.join(f'`{name}`' for name in fields)}."]
  return "\n".join(lines) + "\n"


def data_page() -> str:
  """The tree that each source of videos reads."""
  lines = [
    _HEAD, "# Data layouts", "",
    "What `--config.data.source` reads from `--config.data.root`. `python -m"
    " lamd_jax.tools.doctor DIR` says which of these a folder is. `procedural` reads"
    " nothing, `tfds` what TFDS prepared under `data.name`.",
  ]  # fmt: skip
  for source in layouts.TREES:
    tree = layouts.expected_tree(source)
    lines += ["", f"## {source}", "", "```text", tree, "```"]
  return "\n".join(lines) + "\n"


PAGES = {
  "data_layouts": data_page,
  "config": config_page,
  "flags": flags_page,
  "exit_codes": exit_codes_page,
  "protocols": protocols_page,
}


def write(folder: pathlib.Path) -> None:
  """Writes all pages; those that have not changed are left, for faster builds."""
  folder.mkdir(exist_ok=True)
  for name, page in PAGES.items():
    path, text = folder / f"{name}.md", page()
    if not path.exists() or path.read_text("utf-8") != text:
      path.write_text(text, "utf-8")


if __name__ == "__main__":
  here = pathlib.Path(__file__).resolve().parent
  write(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "generated")
