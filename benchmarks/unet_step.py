# SPDX-License-Identifier: Apache-2.0
"""Times our UNet and decoder against a plain torch twin of them, in one run.

    pip install -e '.[parity]'
    python -m benchmarks.unet_step                        # steps and decoding
    python -m benchmarks.unet_step --clip                 # finished clips, minutes each
    python -m benchmarks.unet_step --bf16 --batch=32 --forms=plain,compiled  # on a GPU

float32, batch 1, two threads, after a warm-up, both sides taking turns (harness.py).
The twin runs in each of its forms (`torch_twin.FORMS`): "plain" is how the published
implementation is written, and the fastest form is what an expert would get; both ratios
are printed. Sizes: LVDM's sky model (channels 256, 549M parameters), the same with 64
channels (34M), and decoding 4x32x32x4 latents to 16x256x256x3.
"""

from __future__ import annotations

import argparse
import json
import pathlib

from benchmarks import harness
from benchmarks import worker

# Dense bfloat16 peak of an H100 or H200 SXM, as their data sheets state it.
PEAK_FLOPS = 989e12
_HEAD = (
  "case",
  "ours: min / median / cpu",
  "twin plain: min / median / cpu",
  "twin's best form",
  "ours / plain: min, median",
  "ours / best: min, median",
)


def _command(side: str, case: str, flags: argparse.Namespace) -> list[str]:
  threads = 0 if flags.bf16 else flags.threads
  command = ["-m", "benchmarks.worker", f"--side={side}", f"--case={case}"]
  command += [f"--threads={threads}", f"--batch={flags.batch}"]
  return command + ["--bf16"] * flags.bf16


def _row(case: str, timings: dict[str, harness.Timing], threads: int) -> list[str]:
  show = lambda t: f"{t.best:.3f} / {t.median:.3f} / {t.least_cpu(threads):.3f}"
  ours = timings["ours"]
  row = [case, show(ours)]
  twins = {name: t for name, t in timings.items() if name != "ours"}
  if not twins:
    return row + ["-"] * 4
  best = min(twins, key=lambda name: twins[name].best)
  ratio = lambda t: f"{ours.best / t.best:.2f}, {ours.median / t.median:.2f}"
  plain = twins.get("plain", twins[best])
  return [
    *row,
    show(plain),
    f"{best}: {twins[best].best:.3f}",
    ratio(plain),
    ratio(twins[best]),
  ]


def _report(case: str, timings: dict[str, harness.Timing], threads: int) -> dict:
  def one(t: harness.Timing) -> dict:
    return {
      "min": t.best,
      "median": t.median,
      "cpu_over_threads": t.least_cpu(threads),
      "first_call": t.warm_up,
      "rss_gib": t.rss,
      "walls": [s.wall for s in t.samples],
      **t.facts,
    }

  return {"case": case, **{name: one(t) for name, t in timings.items()}}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  steps = [c for c in worker.CASES if not c.startswith("clip")]
  parser.add_argument("--cases", default="", help=f"of {','.join(worker.CASES)}")
  parser.add_argument("--clip", action="store_true", help="only case clip_256")
  parser.add_argument("--forms", default="plain,folded")
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--bf16", action="store_true", help="on a GPU: utilisation too")
  parser.add_argument("--json", default="", help="also write the figures to this file")
  flags = parser.parse_args()
  cases = ["clip_256"] if flags.clip else steps
  cases = flags.cases.split(",") if flags.cases else cases
  unknown = set(cases) - set(worker.CASES)
  if unknown:
    parser.error(f"no case {sorted(unknown)}; choose from {', '.join(worker.CASES)}")
  forms = [form for form in flags.forms.split(",") if form]
  repeats = 1 if flags.clip else flags.repeats
  facts = harness.machine()
  print(facts, flush=True)
  rows, report = [], []
  for case in cases:
    commands = {side: _command(side, case, flags) for side in ("ours", *forms)}
    timings = harness.compete(commands, repeats)
    rows.append(_row(case, timings, flags.threads))
    report.append(_report(case, timings, flags.threads))
    print(" | ".join(rows[-1]), flush=True)
    if flags.bf16:
      rate = timings["ours"].facts["flops"] / timings["ours"].best
      report[-1]["utilisation"] = rate / PEAK_FLOPS
      print(f"  {rate / 1e12:.1f} TFLOP/s, {rate / PEAK_FLOPS:.1%} of {PEAK_FLOPS:.3g}")
  print("\n" + harness.table(_HEAD, rows), flush=True)
  if flags.json:
    whole = {"machine": facts, "threads": flags.threads, "cases": report}
    pathlib.Path(flags.json).write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
  main()
