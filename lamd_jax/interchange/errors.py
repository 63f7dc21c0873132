# SPDX-License-Identifier: Apache-2.0
"""The error of this package."""

from __future__ import annotations


class WeightsError(ValueError):
  """Weights that are absent, or that do not fit the network. Exit 4."""
