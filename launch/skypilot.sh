#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SkyPilot: a managed job, on spot machines of whichever cloud has them.
#
#   launch/skypilot.sh --name NAME --bucket BUCKET [--nodes 1] [--accelerators H100:8]
#     [--dry-run] -- COMMAND...
#
# Idempotent: a managed job of this name that is not finished is left alone. SkyPilot
# starts the job elsewhere when its machines are taken; launch/skypilot.yaml starts COMMAND
# again on 75. The bucket is mounted as ./bucket: give COMMAND a --workdir below it.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"

name='' bucket='' nodes=1 accelerators=H100:8
(($#)) || usage
while (($#)); do
  case "$1" in
    --name) value "$@" && name="$2" && shift ;;
    --bucket) value "$@" && bucket="$2" && shift ;;
    --nodes) value "$@" && nodes="$2" && shift ;;
    --accelerators) value "$@" && accelerators="$2" && shift ;;
    --dry-run) DRY_RUN=1 ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) fail "unknown flag $1" ;;
  esac
  shift
done
needs "$name" --name
needs "$bucket" --bucket
number "$nodes" --nodes 1
(($#)) || fail "no command after --"

# unfinished QUEUE: whether a job of this name is in the table that sky prints. Its cells
# begin below the title of their column and end in two blanks; rows that begin with no
# number are tasks of another job.
unfinished() {
  awk -v name="$name" '
    /^ID .* NAME / { at = index($0, " NAME ") + 1 }
    at && /^[0-9]/ && index(substr($0, at), name "  ") == 1 { found = 1 }
    END { exit !found }
  ' <<<"$1"
}

if ((!DRY_RUN)); then
  # Not by a pipe, where a failure would read as "there is none". Without --all sky lists
  # the newest 50; that it could not ask it says in its output alone.
  queue="$(sky jobs queue --skip-finished --all)"
  [[ $queue != *"Failed to query"* ]] || fail "is $name there? sky says: $queue"
  if unfinished "$queue"; then
    say "a managed job named $name is not finished: left alone"
    exit 0
  fi
fi
cd "$here/.."
run sky jobs launch --yes --detach-run --name "$name" --num-nodes "$nodes" \
  --gpus "$accelerators" --env COMMAND="$(show "$@")" --env BUCKET="$bucket" \
  launch/skypilot.yaml
