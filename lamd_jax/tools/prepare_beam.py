# SPDX-License-Identifier: Apache-2.0
"""tools.prepare by Apache Beam: the same function, mapped over the same shards.

Only this file imports Beam. Results lie in files, each replaced as a whole, so a bundle
that a runner does twice, or gives up and does elsewhere, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


class _Do(beam.DoFn):
  """Calls the function; counts clips for the runner's own pages."""

  def __init__(self, function: Callable[[Any], dict[str, Any]]):
    self._function = function
    self._clips = beam.metrics.Metrics.counter("lamd_jax", "clips")
    self._corrupt = beam.metrics.Metrics.counter("lamd_jax", "corrupt_clips")

  def process(self, task: Any) -> Iterator[str]:
    report = self._function(task)
    self._clips.inc(report["clips"])
    self._corrupt.inc(len(report["corrupt"]))
    yield report["file"]


def run(
  function: Callable[[Any], dict[str, Any]], tasks: Sequence[Any], flags: Sequence[str]
) -> None:
  """Does every task and waits for the last.

  Args:
    function: task -> {"file", "clips", "corrupt", ...}; named at the top of a module,
      for workers to import.
    tasks: of plain values.
    flags: Beam's, --runner=... among them.
  """
  with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
    every = pipeline | "shards" >> beam.Create(list(tasks))
    # Or runners fuse the steps and give all shards to one worker.
    _ = every | beam.Reshuffle() | "write" >> beam.ParDo(_Do(function))
