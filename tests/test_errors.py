# SPDX-License-Identifier: Apache-2.0
"""How commands end."""

import subprocess
import sys

PROGRAM = """
import sys
from lamd_jax import errors

def command():
  for _ in range(100000):
    print("a line")

sys.exit(errors.exit_code(command))
"""


def test_a_reader_that_leaves_is_no_error():
  """As `| head -1` does."""
  program = subprocess.Popen(
    [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  assert program.stdout.readline() == b"a line\n"
  program.stdout.close()
  assert program.stderr.read() == b"" and program.wait() == 141
