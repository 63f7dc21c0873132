# SPDX-License-Identifier: Apache-2.0
"""The videos of a folder with their lines of the index; a command lists them once.

A training opens its data a dozen times before its first step, and to list a folder is to
ask a disk about every video and to read every caption beside one: of a million on a
network's disk that takes long. A command also shall not see other videos half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import pathlib

from lamd_jax.data import index
from lamd_jax.data.records import Entry, Listing

Scan = Callable[[pathlib.Path], Listing]
Indexed = tuple[tuple[Entry, ...], list[str]]

_kept: dict[tuple[pathlib.Path, Scan], Indexed] | None = None


@contextlib.contextmanager
def listed_once() -> Iterator[None]:
  """Keeps what `indexed` finds until the end of the block."""
  global _kept
  before, _kept = _kept, {}
  try:
    yield
  finally:
    _kept = before


def indexed(root: pathlib.Path, scan: Scan) -> Indexed:
  """Lists `root`, brings its index up to date; returns entries and what `scan` notes.

  Within `listed_once` the same function is asked about a folder once.
  """
  kept = {} if _kept is None else _kept
  key = (root.absolute(), scan)
  if key not in kept:
    listing = scan(root)
    entries = index.build(root, listing.items) if listing.items else []
    kept[key] = (tuple(entries), listing.notes)
  return kept[key]
