# SPDX-License-Identifier: Apache-2.0
"""The house rules, read off the syntax trees: who imports whom, and how long it gets."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lamd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
_CORE_LIBRARIES = {"jax", "flax", "optax", "chex", "numpy", "einops"}
_BASE = {"types", "rng", "errors"}
# room -> the rooms and files of lamd_jax it may import beside itself
ALLOWED = {
  "types": set(),
  "errors": set(),
  "rng": set(),
  "config": {"config_model", "errors"},
  "config_model": set(),
  "limits": {"errors"},
  "meshes": {"errors"},
  "validation": {"errors", "limits", "meshes"},
  "sample_checks": {"errors", "limits", "validation"},
  "eval_checks": {"errors", "limits", "sample_checks"},
  "media": {"errors"},
  "segments": {"errors", "media"},
  "long_video": {"local_devices", "rng", "systems"},
  "gallery": {"media"},
  "ops": _BASE | {"meshes"},
  "diffusion": _BASE | {"ops"},
  "nn": _BASE | {"ops"},
  "networks": _BASE | {"ops", "nn"},
  "systems": _BASE | {"ops", "nn", "networks", "diffusion", "training.stage"},
  "training": _BASE | {"config", "media", "meshes"},
  "data": {"types", "errors", "config", "media"},
  "evaluation": _BASE | {"config", "data", "networks", "nn", "ops"},
  "interchange": _BASE | {"networks", "nn", "ops"},
}
CORE = ("ops", "diffusion", "nn", "networks", "systems")


def _room(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: pathlib.Path) -> set[str]:
  """Every module a file imports, function-level imports included."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text("utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      assert node.level == 0, f"{path}: relative import"
      if node.module.startswith("lamd_jax"):
        found |= {f"{node.module}.{alias.name}" for alias in node.names}
      else:
        found.add(node.module)
  return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
  room = _room(path)
  if room not in ALLOWED:
    return  # main, api, modes, tools and their helpers may import everything
  for name in _imports(path):
    parts = name.split(".")
    if parts[0] != "lamd_jax" or len(parts) < 2:
      continue
    target, nested = parts[1], ".".join(parts[1:3])
    allowed = ALLOWED[room]
    assert target == room or target in allowed or nested in allowed, (
      f"{path.relative_to(ROOT)} imports {name}"
    )


@pytest.mark.parametrize("room", CORE)
def test_core_needs_only_the_core_libraries(room):
  for path in sorted((PACKAGE / room).rglob("*.py")):
    outside = {name.split(".")[0] for name in _imports(path)}
    outside -= _CORE_LIBRARIES | {"lamd_jax"} | set(sys.stdlib_module_names)
    assert not outside, f"{path.relative_to(ROOT)} imports {outside}"


def test_data_never_imports_jax():
  code = (
    "import pkgutil, sys, importlib, lamd_jax.data as d\n"
    "for m in pkgutil.walk_packages(d.__path__, 'lamd_jax.data.'):\n"
    "  importlib.import_module(m.name)\n"
    "assert 'jax' not in sys.modules, 'jax came in'\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_budgets(path):
  text = path.read_text("utf-8")
  assert path.name != "utils.py"
  assert text.startswith("# SPDX-License-Identifier: Apache-2.0")
  limit = 300 if path == PACKAGE / "training" / "loop.py" else 400
  assert len(text.splitlines()) <= limit
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"


def test_no_dangerous_calls():
  """No unpickling, no eval, no shell, anywhere in the package."""
  for path in FILES:
    names = _imports(path)
    tree = ast.parse(path.read_text("utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    if path.name != "torch_zip.py":  # subclasses the unpickler with an allow-list
      assert not names & {"pickle", "joblib", "dill", "shelve"}, path
    for call in calls:
      function = ast.unparse(call.func)
      assert function not in ("eval", "exec", "os.system", "os.popen"), path
      for keyword in call.keywords:
        flag = (keyword.arg, ast.unparse(keyword.value))
        assert flag not in {("shell", "True"), ("allow_pickle", "True")}, path
