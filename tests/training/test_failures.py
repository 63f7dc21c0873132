# SPDX-License-Identifier: Apache-2.0
"""Where one process fails all end, with its exit code; gloo between them."""

import processes
import pytest
import toy_failure

from lamd_jax.errors import ConfigError
from lamd_jax.training import distributed
from lamd_jax.training import failures


def _run(folder, event):
  return processes.finish(processes.start(toy_failure, 2, folder, event))


@pytest.mark.parametrize(
  "event, code, failed, said",
  [("fail", 3, 1, "the disk is gone"), ("crash", 1, 0, "RuntimeError: nobody expects")],
)
def test_the_other_hears_of_it_and_leaves_alike(tmp_path, event, code, failed, said):
  codes, outputs = _run(tmp_path, event)
  assert codes == [code, code]
  line = f"process {failed} failed, and says why"
  assert said in outputs[failed] and f"lamd_jax: {line}" in outputs[1 - failed]
  assert [path.read_text() for path in tmp_path.iterdir()] == [line]


def test_hosts_that_see_other_videos_are_told(tmp_path):
  codes, outputs = _run(tmp_path, "differ")
  assert codes == [3, 3]
  assert all("process 1 has others than process 0" in text for text in outputs)


def test_who_ends_well_ends_at_once(tmp_path):
  codes, outputs = _run(tmp_path, "none")
  assert codes == [0, 0] and not any("failed" in text for text in outputs)


def test_alone_nothing_is_told():
  assert failures.ended(lambda: 3) == 3
  with pytest.raises(RuntimeError, match="as it was"):
    failures.ended(lambda: (_ for _ in ()).throw(RuntimeError("as it was")))


def test_a_tool_for_one_process_says_so(monkeypatch):
  distributed.alone("tools.finetune")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "8")
  with pytest.raises(ConfigError, match="tools.finetune: is for one process, and 8 were"):
    distributed.alone("tools.finetune")
