# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a user's input. Each message is one line: value, limit, fix.

A command prints the message alone and leaves with the class's exit code (`exit_code`).
"""

from __future__ import annotations

from collections.abc import Callable
import errno
import os
import sys

# A full disk, a folder of somebody else: no mistake of the program's.
_OF_THE_DISK = (
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
)  # fmt: skip


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


class NonFiniteError(RuntimeError):
  """Too many steps in a row had a loss or gradient that was not finite."""

  exit_code = 1


def exit_code(command: Callable[[], int | None]) -> int:
  """Runs a command; returns its exit code, 0 for None.

  What its user can mend is one line on stderr, any other error is raised. Ctrl-C is 130.
  """
  try:
    return command() or 0
  except (InputError, NonFiniteError) as error:
    print(f"lamd_jax: {error}", file=sys.stderr, flush=True)
    return error.exit_code
  except BrokenPipeError:  # as by `| head`; else Python says so again as it ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141  # as a shell says it of SIGPIPE
  except OSError as error:
    if error.errno not in _OF_THE_DISK:
      raise
    where = error.filename or "a file"
    print(f"lamd_jax: {where}: {error.strerror}", file=sys.stderr, flush=True)
    return 1
  except KeyboardInterrupt:
    return 130
