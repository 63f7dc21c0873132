#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a worker of a slice: runs COMMAND, which goes on when the connection is lost.
#
# tpu_pod.sh sends this text along: bash -c "$(<on_worker.sh)" run COMMAND...
# Where COMMAND runs already, from an earlier connection, it is followed. The exit code
# is COMMAND's. In place of `run`, `ended` only asks whether COMMAND has ended here.
# Its output, its code and a lock that lasts as long as it does lie in the home folder.

set -euo pipefail

run=".lamd_run_$(cksum <<<"$*" | cut -d' ' -f1)"
[[ $0 != ended ]] || exec test -e "$run.code"

exec 9>"$run.lock"
if flock -n 9; then
  rm -f "$run.code"
  # The lock is held by the shell around COMMAND and not by what that may leave behind.
  # shellcheck disable=SC2016 # expanded there
  setsid bash -c '"${@:2}" 9>&-; echo "$?" >"$1.code"' lamd "$run" "$@" \
    >"$run.log" 2>&1 </dev/null &
  lines=+1
else
  echo "launch: it runs already; its last lines, and what follows:" >&2
  lines=20
fi
exec 9>&- # or the next line would wait for this shell's own lock
tail -n "$lines" -f "$run.log" &
flock "$run.lock" true
sleep 1 # for tail's last lines
kill "$!"
exit "$(<"$run.code")"
