# SPDX-License-Identifier: Apache-2.0
"""Sphinx settings; pages under generated/ are written anew at each build."""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import generate  # of this folder

import lamd_jax

project = "lamd_jax"
author = copyright = "The lamd_jax authors"
release = version = lamd_jax.__version__
extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "Thumbs.db"]
html_theme = "furo"
html_title = f"lamd_jax {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"footer_icons": []}

smartquotes = False  # it makes a dash of the two hyphens of a flag

# Docstrings are plain text with `names`; types stand in the signatures.
default_role = "literal"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_param = False

generate.write(HERE / "generated")


def _link_outside(app, name, source):
  """Turns links to files beside docs/ into downloads, and those to folders into names."""
  page = HERE / name

  def one(link):
    text, target = link.groups()
    found = (page.parent / target).resolve()
    if HERE in found.parents:
      return link.group()
    if found.is_dir():
      return f"{text} (`{found.relative_to(HERE.parent)}`)"
    return f"[{text}](path:{target})"

  source[0] = re.sub(r"\[([^\]]*)\]\(([^)#:\s]+)\)", one, source[0])


def setup(app):
  app.connect("source-read", _link_outside)
