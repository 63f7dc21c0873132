#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a worker of a slice: runs COMMAND, which goes on when the connection is lost.
#
# tpu_pod.sh sends this text along: bash -c "$(<on_worker.sh)" run START COMMAND...
# START names one start: sent again, it follows COMMAND if that still runs, and begins
# nothing if it has ended. The exit code is COMMAND's. In place of `run`, `ended` only
# asks whether that start has ended here. COMMAND's output, its code and a lock that
# lasts as long as it does lie in the home folder.

set -euo pipefail

start="$1"
shift
run=".lamd_run_$(cksum <<<"$*" | cut -d' ' -f1)"
code=''
if [[ -e $run.code ]]; then read -r of code <"$run.code" || true; fi
[[ -z $code || $of == "$start" ]] || code='' # an earlier start's
[[ $0 != ended ]] || exec test -n "$code"
[[ -z $code ]] || exit "$code"

echo "$start" >"$run.start" # who follows gives what runs already this name, too
exec 9>"$run.lock"
if flock -n 9; then
  lines=+1
  : >"$run.log"
  rm -f "$run.code" # an earlier start's would pass for that of one that was killed
  # The lock is held by the shell around COMMAND and not by what that may leave behind.
  # shellcheck disable=SC2016 # expanded there
  setsid bash -c '"${@:2}" 9>&-; code=$?; echo "$(<"$1.start") $code" >"$1.code"' \
    lamd "$run" "$@" >"$run.log" 2>&1 </dev/null &
else
  lines=20
  echo "launch: it runs already; its last lines, and what follows:" >&2
fi
exec 9>&- # or the next line would wait for this shell's own lock
tail -n "$lines" -f "$run.log" &
flock "$run.lock" true
sleep 1 # for tail's last lines
kill "$!" 2>/dev/null || true
read -r of code <"$run.code" || true
exit "${code:-1}"
