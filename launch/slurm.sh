#!/usr/bin/env bash
#SBATCH --job-name=lit-tune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# The job of a run on a GPU cluster with Slurm: one process a GPU, which find each other by themselves. Slurm starts it,
# sent by slurm.py, which has the verbs (plan, up, run, logs, status, resume, down):
#
#   python launch/slurm.py VERB --name=NAME [flags] -- --config=NAME --workdir=DIR [flags of `lit-tune train`]
#   launch/slurm.sh VERB ...         the same
#   sbatch launch/slurm.sh job N ... what that sends: N is how often it may be queued again without a new checkpoint
#
# The lines above are the defaults of sbatch's flags. 120 s before the time is over, and when Slurm takes the nodes away,
# the run gets SIGTERM, saves, ends with 75 and is put into the queue again. Every shell word is passed on as it was given.
set -euo pipefail

fail() {
  echo "launch/slurm.sh: $2" >&2
  exit "$1"
}

newest() { # newest WORKDIR: step of the newest whole checkpoint, -1 if none
  local file step best=-1
  for file in "$1"/checkpoints/*/digests.json; do
    step=$(basename "$(dirname "$file")")
    if [[ $step =~ ^[0-9]+$ ]] && ((step > best)); then best=$step; fi
  done
  echo "$best"
}

folder() { # folder WORKDIR: returns if it can be one of all nodes
  [ -n "$1" ] || fail 2 "--workdir: expected a folder that all nodes share after \`--\`, found none; add it"
  [[ $1 != *://* ]] || fail 2 "--workdir: expected a folder that all nodes share, found $1; name one"
}

task() { # task FILE WORDS...: one process of the run; a final exit code is also written to FILE
  local file=$1 child code=0
  shift
  # In a group of its own: some clusters signal this shell alone, some its whole group, and a second signal means "at once".
  set -m
  "$@" &
  child=$!
  set +m
  # shellcheck disable=SC2064 # the number is known now
  trap "kill -TERM $child 2>/dev/null || true" TERM INT
  # `wait` returns at once, for a signal too: who was ended because of this one's code must not be faster than its line.
  while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
  wait "$child" || code=$?
  case $code in [2-5]) echo "$code" >>"$file" ;; esac
  exit "$code"
}

job() { # job N WORDS...: inside the allocation; the words are those of `lit-tune train`
  local most=${1:-}
  [[ $most =~ ^[0-9]+$ ]] || fail 2 "N: expected how often the job may be queued again, found '$most'; for example: job 10 --config=..."
  shift
  local word workdir='' code=0 tries=0 before=-1 now mark final
  for word in "$@"; do case $word in --workdir=*) workdir=${word#*=} ;; esac done
  folder "$workdir"
  mkdir -p "$workdir"
  mark=$workdir/slurm_requeues # "STEP TRIES": how often it was queued again with the same newest checkpoint
  # srun gives the highest code of all tasks: that of those which end because the first one did hides its 2, 3, 4 or 5.
  final=$workdir/slurm_final
  : >"$final" # there from the start: a shared disk may take a minute to show a new file, but not a new line of an old one
  srun --kill-on-bad-exit=1 bash -c "$(declare -f task); task \"\$@\"" bash "$final" lit-tune train "$@" \
    --preempted_exit_code=75 || code=$?
  [ ! -s "$final" ] || read -r code <"$final"
  case $code in 0 | 2 | 3 | 4 | 5) exit "$code" ;; esac # finished, or a restart would end the same way
  now=$(newest "$workdir")
  [ ! -s "$mark" ] || read -r before tries <"$mark"
  if ((now > before)); then tries=0; else tries=$((tries + 1)); fi
  ((tries <= most)) || fail "$code" "exit code $code, $tries times without a new checkpoint since step $now; given up"
  echo "$now $tries" >"$mark"
  echo "launch/slurm.sh: exit code $code at checkpoint $now; into the queue again"
  scontrol requeue "$SLURM_JOB_ID"
}

[ "${1:-}" = job ] || exec python3 "$(dirname "$0")/slurm.py" "$@" # typed by a person
[ -n "${SLURM_JOB_ID:-}" ] || fail 2 "job: expected inside an allocation, found none; send it by sbatch, or call \`run\`"
shift
job "$@"
