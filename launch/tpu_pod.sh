#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A TPU slice by a queued resource: all workers run COMMAND, again after a preemption.
#
#   launch/tpu_pod.sh --name NAME --zone ZONE --type v5litepod-32 [--spot]
#     [--runtime v2-alpha-tpuv5-lite] [--setup COMMAND] [--project P] [--restarts N]
#     [--keep] [--dry-run] -- COMMAND...
#
# Idempotent: a request of this name that exists is used, one that is suspended or has
# failed is deleted and made again. --setup (to install the package) runs before COMMAND,
# once on every worker of a slice; where it failed, again at the next start, so it has to
# be one that can. The slice is deleted at the end unless --keep; Ctrl-C leaves it, and
# says how to delete it. COMMAND starts in the workers' home folder, and needs a
# --workdir=gs://... that all workers reach. An example that installs:
# docs/howto/many_devices.md.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"

name='' zone='' type='' project='' setup='' runtime=v2-alpha-tpuv5-lite
spot=0 keep=0 restarts=1000
(($#)) || usage
while (($#)); do
  case "$1" in
    --name) value "$@" && name="$2" && shift ;;
    --zone) value "$@" && zone="$2" && shift ;;
    --type) value "$@" && type="$2" && shift ;;
    --project) value "$@" && project="$2" && shift ;;
    --runtime) value "$@" && runtime="$2" && shift ;;
    --setup) value "$@" && setup="$2" && shift ;;
    --restarts) value "$@" && restarts="$2" && shift ;;
    --spot) spot=1 ;;
    --keep) keep=1 ;;
    --dry-run) DRY_RUN=1 ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) fail "unknown flag $1" ;;
  esac
  shift
done
needs "$name" --name
needs "$zone" --zone
needs "$type" --type
number "$restarts" --restarts 0
(($#)) || fail "no command after --"
# Its absence would read as a question that failed, and be asked for ever.
((DRY_RUN)) || [[ -n $(command -v gcloud) ]] || fail "gcloud is not installed"

where=(--zone="$zone")
[[ -z $project ]] || where+=(--project="$project")
queued=(gcloud alpha compute tpus queued-resources)
# The workers remember what was installed, since this launcher need not be the one that
# asked for the slice. A --setup with another text is another file.
mark=".lamd_setup_$(cksum <<<"$setup" | cut -d' ' -f1)"
install="test -e $mark || { bash -c $(printf '%q' "$setup") && touch $mark; }"
errors="$(mktemp)"
trap 'rm -f "$errors"' EXIT

# shellcheck disable=SC2329 # called by the trap
leave() {
  say "stopped; $name stays, and bills once it is there; its run goes on. To end both:"
  show "${queued[@]}" delete "$name" "${where[@]}" --force >&2
  exit 130
}
trap leave INT

# ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...; NONE if there is no such request.
state() {
  local answer
  until answer="$("${queued[@]}" describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>"$errors")"; do
    # Any other failure, of the network say, leaves open whether there is one: to create
    # it once more would fail, and to start again would repeat a run that failed.
    if grep -q NOT_FOUND "$errors"; then
      answer=NONE
      break
    fi
    say "asking for the state of $name again: $(<"$errors")"
    sleep "$POLL_SECONDS"
  done
  printf '%s\n' "$answer"
}

delete() {
  run "${queued[@]}" delete "$name" "${where[@]}" --force --quiet
}

create() {
  local flags=(--node-id="$name" --accelerator-type="$type" --runtime-version="$runtime")
  ((!spot)) || flags+=(--spot)
  run "${queued[@]}" create "$name" "${where[@]}" "${flags[@]}"
}

# Returns once the slice is there.
wait_active() {
  if ((DRY_RUN)); then
    create
    return
  fi
  while :; do
    local now
    now="$(state)"
    case "$now" in
      ACTIVE) return ;;
      # What worked before may fail in passing: the next look says what came of it.
      NONE) create || ((attempt)) || exit ;;
      SUSPENDED | FAILED)
        say "$name is $now: asking for it anew"
        delete || ((attempt)) || exit
        ;;
      *) say "$name is $now" ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

# on_workers run|ended START COMMAND...: see on_worker.sh, whose text a worker is sent.
on_workers() {
  local script=on_worker.sh
  ((DRY_RUN)) || script="$(printf 'bash -c %q' "$(<"$here/on_worker.sh")")"
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    --command="$script $(show "$@")"
}

# through START COMMAND...: sets `code`, and whether to start `again`.
through() {
  while :; do
    code=0 again=1
    on_workers run "$@" || code=$?
    ((code != 0 && code != PREEMPTED)) || return 0
    [[ $(state) == ACTIVE ]] || return 0
    # gcloud's code does not tell a run that failed from a connection that did.
    if on_workers ended "$@"; then
      code=0
      on_workers run "$@" || code=$? # begins nothing: it only gives the code
      ((again = code == PREEMPTED, 1))
      return
    fi
    say "no connection (exit $code): following $name again"
    sleep "$POLL_SECONDS"
  done
}

for ((attempt = 0; attempt <= restarts; attempt++)); do
  wait_active
  code=0
  start="$(date +%s).$$.$attempt"
  [[ -z $setup ]] || through "$start" bash -c "$install"
  ((code != 0)) || through "$start" "$@"
  ((code != 0 && again)) || break # at its end, or of its own failure
  say "preempted (exit $code): start $((attempt + 1)) again"
done
if ((!keep)); then
  delete || { sleep "$POLL_SECONDS" && delete; } || {
    say "$name could not be deleted, and bills. To delete it:"
    show "${queued[@]}" delete "$name" "${where[@]}" --force >&2
  }
fi
exit "$code"
