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

# present FLAG [VALUE]...: something must follow the flag.
present() { [[ $# -gt 1 && $2 != -- ]] || fail "$1 wants a value; see the head of $0"; }

# value FLAG [VALUE]...: likewise, and no flag; a script's own would be swallowed.
value() {
  present "$@"
  [[ $2 != --* ]] || fail "$1 wants a value, $2 is a flag; see the head of $0"
}

# number VALUE FLAG LEAST: VALUE must be a whole number.
number() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,5})$ && $1 -ge $3 ]] || fail "$2 $1: a whole number from $3 on"
}

# needs VALUE FLAG: VALUE must not be empty.
needs() { [[ -n $1 ]] || fail "$2 is missing; see the head of $0"; }

# With no arguments, or --help: prints the head of the script.
usage() {
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  exit "${1:-2}"
}
