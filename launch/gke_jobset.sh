#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# GKE: one JobSet, a pod on each host of a TPU slice.
#
#   launch/gke_jobset.sh --name NAME --image IMAGE --accelerator tpu-v5-lite-podslice
#     --topology 4x8 --hosts 8 --chips 4 [--restarts N] [--follow] [--dry-run]
#     -- COMMAND...
#
# Fills launch/gke_jobset.yaml and applies it, which is idempotent. Pods that exit with 75
# restart the whole JobSet without counting as a failure. --follow waits for the end, and
# applies it anew if a controller that does not know this rule gave up at a 75. --dry-run
# prints the YAML. The cluster needs the JobSet controller; COMMAND a --workdir=gs://...;
# IMAGE the package, installed with [tpu,gcp], and configs/ in its working folder.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"

name='' image='' accelerator='' topology='' hosts='' chips='' restarts=20 follow=0
(($#)) || usage
while (($#)); do
  case "$1" in
    --name) value "$@" && name="$2" && shift ;;
    --image) value "$@" && image="$2" && shift ;;
    --accelerator) value "$@" && accelerator="$2" && shift ;;
    --topology) value "$@" && topology="$2" && shift ;;
    --hosts) value "$@" && hosts="$2" && shift ;;
    --chips) value "$@" && chips="$2" && shift ;;
    --restarts) value "$@" && restarts="$2" && shift ;;
    --follow) follow=1 ;;
    --dry-run) DRY_RUN=1 ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) fail "unknown flag $1" ;;
  esac
  shift
done
needs "$name" --name
[[ $name =~ ^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$ ]] \
  || fail "--name $name: at most 32 of a-z, 0-9 and -, a letter first, no - last"
needs "$image" --image
needs "$accelerator" --accelerator
needs "$topology" --topology
needs "$hosts" --hosts
needs "$chips" --chips
number "$hosts" --hosts 1
number "$chips" --chips 1
number "$restarts" --restarts 0
(($#)) || fail "no command after --"

# Values reach the template by the environment and the command as JSON, which is YAML:
# no quoting of ours to get wrong.
manifest() {
  NAME="$name" IMAGE="$image" ACCELERATOR="$accelerator" TOPOLOGY="$topology" \
    HOSTS="$hosts" CHIPS="$chips" RESTARTS="$restarts" \
    python3 - "$here/gke_jobset.yaml" "$@" <<'PYTHON'
import json, os, pathlib, string, sys
text = string.Template(pathlib.Path(sys.argv[1]).read_text())
print(text.substitute(os.environ, COMMAND=json.dumps(sys.argv[2:])), end="")
PYTHON
}

if ((DRY_RUN)); then
  manifest "$@"
  exit 0
fi
manifest "$@" | kubectl apply -f -
((follow)) || exit 0
for ((attempt = 0; ; )); do
  # A question that fails is asked again.
  state="$(kubectl get jobset "$name" -o 'jsonpath={.status.terminalState}' || true)"
  case "$state" in
    Completed) exit 0 ;;
    Failed)
      codes="$(kubectl get pods -l "jobset.sigs.k8s.io/jobset-name=$name" \
        -o 'jsonpath={..state.terminated.exitCode}' || true)"
      if [[ " $codes " != *" $PREEMPTED "* ]] || ((attempt >= restarts)); then
        fail "$name failed; exit codes of its pods: $codes"
      fi
      attempt=$((attempt + 1))
      say "saved and left with 75: start $attempt again"
      kubectl delete jobset "$name" --wait=true
      manifest "$@" | kubectl apply -f -
      ;;
  esac
  sleep "$POLL_SECONDS"
done
