#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SLURM: submits itself; inside the job starts one process for each GPU.
#
#   launch/slurm.sh --name NAME [--nodes 1] [--gpus 1] [--time 24:00:00]
#     [--sbatch FLAG]... [--dry-run] -- COMMAND...
#
# Idempotent: a job of this name that is queued or runs is left alone. 120 s before the
# time limit, or at a preemption, SLURM sends SIGTERM to the processes; they save and exit
# with 75, and the job puts itself back in the queue. COMMAND needs a --workdir on a disk
# that all nodes share. --sbatch passes a flag on (--sbatch=--partition=gpu). Most sites
# give a process one core unless asked: --sbatch=--cpus-per-task=12, say.

# SLURM runs a copy of this file from its own folder: the job knows where it lay.
here="${LAMD_LAUNCH:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}"
# shellcheck source=launch/common.sh
source "$here/common.sh"

# In the job: COMMAND alone is left.
if [[ -n ${SLURM_JOB_ID:-} && ${LAMD_IN_JOB:-} == 1 ]]; then
  trap : TERM # the processes save; this shell lives to put the job back
  code=0
  # Since SLURM 22.05 srun does not take it from sbatch: each process had one core.
  [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
  srun --kill-on-bad-exit=0 "$@" || code=$?
  if ((code == PREEMPTED)); then
    say "saved and left with 75: back to the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
fi

name='' nodes=1 gpus=1 limit=24:00:00 more=()
(($#)) || usage
while (($#)); do
  case "$1" in
    --name) value "$@" && name="$2" && shift ;;
    --nodes) value "$@" && nodes="$2" && shift ;;
    --gpus) value "$@" && gpus="$2" && shift ;;
    --time) value "$@" && limit="$2" && shift ;;
    --sbatch=*) more+=("${1#--sbatch=}") ;;
    --sbatch) present "$@" && more+=("$2") && shift ;;
    --dry-run) DRY_RUN=1 ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) fail "unknown flag $1" ;;
  esac
  shift
done
needs "$name" --name
number "$nodes" --nodes 1
number "$gpus" --gpus 1
(($#)) || fail "no command after --"

if ((!DRY_RUN)); then
  # Not within the test, where a failure would read as "there is none".
  queue="$(squeue --me --name="$name" --noheader)" || fail "is $name there? squeue failed"
  if [[ -n $queue ]]; then
    say "a job named $name is queued or runs: left alone"
    exit 0
  fi
fi
# Without B: the signal goes to the processes and not to the batch shell.
run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" \
  --gpus-per-node="$gpus" --time="$limit" --requeue --signal=TERM@120 \
  --open-mode=append --export=ALL,LAMD_IN_JOB=1,LAMD_LAUNCH="$here" \
  ${more[@]+"${more[@]}"} "$here/slurm.sh" "$@"
