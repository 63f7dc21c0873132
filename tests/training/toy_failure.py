# SPDX-License-Identifier: Apache-2.0
"""One process of two, for test_failures.

  python toy_failure.py FOLDER EVENT

EVENT: fail (the second raises DataError while the first waits for it), crash (the first
raises what nobody expects), differ (they know different videos) or none.
"""

import pathlib
import sys

import jax
from jax.experimental import multihost_utils

from lamd_jax import errors
from lamd_jax.training import distributed
from lamd_jax.training import failures


def work(folder: pathlib.Path, event: str) -> int:
  distributed.initialize(60)
  process = jax.process_index()
  failures.tell((folder / f"heard-{process}").write_text)
  multihost_utils.sync_global_devices("begin")
  if event == "fail" and process == 1:
    raise errors.DataError("the disk is gone")
  if event == "crash" and process == 0:
    raise RuntimeError("nobody expects it")
  distributed.check_same("videos", str(process) if event == "differ" else "")
  multihost_utils.sync_global_devices("end")
  return 0


def main(folder: str, event: str) -> int:
  command = lambda: work(pathlib.Path(folder), event)
  return failures.ended(lambda: errors.exit_code(command))


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
