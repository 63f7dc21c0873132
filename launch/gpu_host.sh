#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One host with any number of GPUs: one process drives them all.
#
#   launch/gpu_host.sh [--dry-run] [--restarts N] -- COMMAND...
#   launch/gpu_host.sh -- python -m lamd_jax.main --config=configs/lvdm_sky.py:gpu
#
# Starts COMMAND again whenever it exits with 75, N times at most (1000). Told to stop
# (SIGTERM, Ctrl-C, a closed terminal), it sends the run SIGTERM, waits until it has saved
# and ends too. A second SIGTERM or Ctrl-C ends the run without saving. Needs python3.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"

restarts=1000
(($#)) || usage
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --restarts) value "$@" && restarts="$2" && shift ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) fail "unknown flag $1" ;;
  esac
  shift
done
number "$restarts" --restarts 0
(($#)) || fail "no command after --"

stopping=0
child=
exec {out}>&1
# shellcheck disable=SC2329 # called by the traps
pass_on() {
  stopping=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
# Ctrl-C too becomes SIGTERM, which is what the run listens to. HUP once: a terminal that
# closes may send it twice, and the run takes a second SIGTERM as "do not save".
trap pass_on TERM INT
trap '((stopping)) || pass_on' HUP

# Says the run's number and, at its end, its code. Python's, since bash (5.2) forgets the code
# of a run that ends as a signal ends `wait`. It hears no signal itself; nor shall the run
# hear Ctrl-C and HUP, which go to the whole group: it would die before it has saved.
readonly FOLLOW='
import os, signal, subprocess, sys
told = os.fdopen(3, "w", buffering=1)
hears = lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)
try:
  run = subprocess.Popen(sys.argv[1:], preexec_fn=hears)
except OSError as error:
  print(f"launch: {error}", file=sys.stderr)
  print(os.getpid(), 127, sep="\n", file=told)
else:
  print(run.pid, file=told)
  code = run.wait()
  print(code if code >= 0 else 128 - code, file=told)
'

for ((attempt = 0; ; attempt++)); do
  if ((DRY_RUN)); then
    show "$@"
    exit 0
  fi
  exec {told}< <(trap '' TERM INT HUP && exec python3 -c "$FOLLOW" "$@" 3>&1 >&"$out")
  read -r child <&"$told"
  # If told to stop between two starts.
  ((!stopping)) || kill -TERM "$child" 2>/dev/null || true
  read -r code <&"$told"
  exec {told}<&-
  if ((code != PREEMPTED || stopping || attempt >= restarts)); then
    exit "$code"
  fi
  say "saved and left with 75: start $((attempt + 1)) again"
done
