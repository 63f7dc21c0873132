# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# What the launchers share. Sourced, never run.
#
# A run that was asked to stop saves and exits with 75 (lamd_jax/training/preemption.py);
# the same command, started again, goes on from there. So a launcher's work is: start,
# and start again on 75 or when the machines are gone; any other code is the run's own.

set -euo pipefail

readonly PREEMPTED=75
POLL_SECONDS="${LAMD_POLL_SECONDS:-30}" # between two questions about a state
DRY_RUN=0

say() { printf 'launch: %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 2
}

# Prints a command as it could be typed.
show() {
  printf '%q ' "$@"
  printf '\n'
}

# Runs a command that changes something; with --dry-run only prints it.
run() {
  if ((DRY_RUN)); then show "$@"; else "$@"; fi
}

# needs VALUE FLAG: VALUE must not be empty.
needs() { [[ -n $1 ]] || fail "$2 is missing; see the head of $0"; }

# With no arguments, or --help: prints the head of the script.
usage() {
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  exit "${1:-2}"
}
