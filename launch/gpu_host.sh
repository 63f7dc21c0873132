#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One host with any number of GPUs: one process drives them all.
#
#   launch/gpu_host.sh [--dry-run] [--restarts N] -- COMMAND...
#   launch/gpu_host.sh -- python -m lamd_jax.main --config=configs/lvdm_sky.py:gpu
#
# Starts COMMAND again whenever it exits with 75, N times at most (1000). SIGTERM is
# passed on, and then ends the launcher too once the run has saved.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"

restarts=1000
(($#)) || usage
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --restarts) restarts="$2" && shift ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) fail "unknown flag $1" ;;
  esac
  shift
done
(($#)) || fail "no command after --"

stopping=0
child=
# shellcheck disable=SC2329 # called by the trap
pass_on() {
  stopping=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap pass_on TERM

for ((attempt = 0; ; attempt++)); do
  if ((DRY_RUN)); then
    show "$@"
    exit 0
  fi
  "$@" &
  child=$!
  code=0
  wait "$child" || code=$?
  # A signal ends `wait`, not the run: wait again until it has saved.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  if ((code != PREEMPTED || stopping || attempt >= restarts)); then
    exit "$code"
  fi
  say "saved and left with 75: start $((attempt + 1)) again"
done
