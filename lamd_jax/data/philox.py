# SPDX-License-Identifier: Apache-2.0
"""Random numbers of the data code: NumPy's Philox, keyed by what they are for."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*parts: str | int) -> np.random.Generator:
  """Returns the generator that belongs to `parts`, e.g. ("flip", seed, position).

  The key is a hash of the parts, so neighbours are independent and nothing depends
  on the order in which generators are made. Where bytes must stay equal across NumPy
  versions draw with `random` only: NumPy pledges the raw stream, not its mappings.
  """
  text = "\x1f".join(str(part) for part in parts)
  digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
  return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, "<u8")))
