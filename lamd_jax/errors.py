# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a user's input. Each message is one line: value, limit, fix.

`main` prints the message alone and leaves with the class's exit code.
"""

from __future__ import annotations


class InputError(ValueError):
  """Something the user can mend."""

  exit_code = 2


class ConfigError(InputError):
  """A config or flag that cannot be run."""


class DataError(InputError):
  """Data that are missing, unreadable or too few."""

  exit_code = 3


class WeightsError(InputError):
  """Weights that are missing, damaged or of another network."""

  exit_code = 4
