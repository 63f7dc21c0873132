# SPDX-License-Identifier: Apache-2.0
"""A process that fails takes the others with it: in seconds, with its own exit code.

Left alone they would wait for it in a collective, and JAX would end all of them after
minutes, by SIGABRT. The coordinator of `jax.distributed` tells who failed.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from absl import logging
import jax

from lamd_jax.training import preemption

_KEY = "lamd_jax/failed"
_EVERY_SECONDS = 1.0  # the coordinator is asked
# Who has heard of it waits in case its own message, of the same failure, is to come. Who
# failed stays until all have heard, since broken connections are errors, and process 0,
# without whose coordinator all others abort, until they have left.
_HEARD_SECONDS, _FAILED_SECONDS, _FIRST_SECONDS = 0.5, 3.0, 6.0
_told: list[Callable[[str], None]] = []
_ending = threading.Event()  # this process itself, well or not
_heard = threading.Event()  # that another one failed


def tell(hear: Callable[[str], None]) -> None:
  """Has `hear` called with a line, where another process has failed."""
  _told.append(hear)


def watch() -> None:
  """Ends this process where another one fails; for one that is connected."""
  thread = threading.Thread(target=_wait, args=(_client(),), daemon=True)
  thread.start()
  # Before JAX gives up the connection, which it registered earlier.
  atexit.register(lambda: (_ending.set(), thread.join()))


def ended(command: Callable[[], int]) -> int:
  """Runs a command; where it fails and is connected, tells the others and leaves."""
  try:
    code = command()
  except BaseException:
    if not jax.distributed.is_initialized():
      raise
    if _heard.is_set():  # it is but the broken connection
      time.sleep(2 * _FIRST_SECONDS)
    traceback.print_exc()
    code = 1
  if code in (0, preemption.EXIT_CODE) or not jax.distributed.is_initialized():
    return code
  _ending.set()
  try:
    _client().key_value_set(_KEY, f"{jax.process_index()} {code}")
  except Exception as error:  # another one was first
    logging.info("not told to the others: %s", error)
  time.sleep(_FAILED_SECONDS if jax.process_index() else _FIRST_SECONDS)
  _leave(code)


def _client() -> Any:
  # JAX has no public name for it.
  from jax._src import distributed

  return distributed.global_state.client


def _wait(client: Any) -> None:
  found = None
  while found is None:
    if _ending.wait(_EVERY_SECONDS):
      return
    try:
      found = client.key_value_try_get(_KEY)
    except Exception as error:
      if "NOT_FOUND" not in str(error):
        return  # the coordinator is gone, which JAX notices
  process, code = found.split()
  if _ending.wait(_HEARD_SECONDS):
    return
  _heard.set()
  if jax.process_index() == 0:
    time.sleep(_FIRST_SECONDS)
  line = f"process {process} failed, and says why"
  for hear in _told:
    hear(line)
  print(f"lamd_jax: {line}", file=sys.stderr)
  _leave(int(code))


def _leave(code: int) -> NoReturn:
  """Without the meeting of all processes that JAX holds at the interpreter's end."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
