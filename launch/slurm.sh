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
# A GPU cluster with Slurm: one process a GPU, which find each other by themselves.
#
#   launch/slurm.sh VERB --name=NAME [sbatch flags] -- --config=NAME --workdir=DIR [flags of `lit-tune train`]
#
#   plan     lit-tune plan for --topology=GPUS (h200x8); allocates nothing
#   up       checks that the cluster and the program can be used
#   run      submits the job, unless one of this name is there; resume is the same
#   logs     follows the job's log
#   status   the job's state and its newest checkpoint
#   down     SIGTERM, so that the run saves, and the job is taken off the queue
#
# The lines above are the defaults; flags before `--` are handed to sbatch and win. 120 s before the time is over, and
# when Slurm takes the nodes away, the run gets SIGTERM, saves, ends with 75 and is put into the queue again: at most
# LIT_TUNE_REQUEUES (10) times without a new checkpoint. `down` gives it LIT_TUNE_SAVE_SECONDS (60) to save. Every shell
# word is passed on as it was given.
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

job() { # inside the allocation; the arguments are those of `lit-tune train`
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
  ((tries <= ${LIT_TUNE_REQUEUES:-10})) || fail "$code" "exit code $code, $tries times without a new checkpoint since step $now; given up"
  echo "$now $tries" >"$mark"
  echo "launch/slurm.sh: exit code $code at checkpoint $now; into the queue again"
  scontrol requeue "$SLURM_JOB_ID"
}

if [ -n "${SLURM_JOB_ID:-}" ] && [ "${1:-}" = job ]; then
  shift
  job "$@"
  exit
fi

verb=${1:-}
case $verb in plan | up | run | resume | status | logs | down) shift ;; *) fail 2 "VERB: expected plan, up, run, resume, status, logs or down, found '$verb'" ;; esac
name='' topology='' flags=() words=() workdir=''
while (($#)); do
  case $1 in
    --) shift && words=("$@") && break ;;
    --name=*) name=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    *) flags+=("$1") ;;
  esac
  shift
done
for flag in ${flags[@]+"${flags[@]}"}; do
  [ "$flag" != --dry-run ] || fail 2 "--dry-run: expected with the launchers in Python, found here, where there is none; nothing was done"
  case $verb in run | resume) ;; *) fail 2 "$flag: expected with run and resume only, which hand it to sbatch, found with $verb; leave it out" ;; esac
done
[[ $name =~ ^[A-Za-z0-9_.-]+$ ]] || fail 2 "--name: expected letters, digits, - _ ., found '$name'; add --name=NAME"
for word in ${words[@]+"${words[@]}"}; do case $word in --workdir=*) workdir=${word#*=} ;; esac done

case $verb in run | resume | status | logs | down)
  command -v squeue >/dev/null || fail 1 "squeue: expected on the PATH, found nothing; log in to the cluster" ;;
esac

mine() { squeue --me --noheader --name="$name" --format=%i | head -n 1; }

case $verb in
  plan)
    [ -n "$topology" ] || fail 2 "--topology: expected the GPUs of all nodes, such as h200x8, found none; add it"
    configs=()
    for word in ${words[@]+"${words[@]}"}; do case $word in --config=* | --config.*) configs+=("$word") ;; esac done
    lit-tune plan ${configs[@]+"${configs[@]}"} --topology="$topology"
    ;;
  up)
    for program in sbatch srun lit-tune; do
      command -v "$program" >/dev/null || fail 1 "$program: expected on the PATH, found nothing; log in to the cluster, activate the environment"
    done
    sinfo --summarize
    ;;
  run | resume)
    folder "$workdir"
    id=$(mine)
    [ -z "$id" ] || { echo "job $id is there already; \`logs\` shows it" && exit; }
    sbatch --job-name="$name" ${flags[@]+"${flags[@]}"} "$0" job "${words[@]}"
    ;;
  status)
    squeue --me --name="$name"
    [ -z "$workdir" ] || echo "newest checkpoint: $(newest "$workdir")"
    ;;
  logs)
    id=$(mine)
    [ -n "$id" ] || fail 1 "no job $name is queued or running; its last log is $name-JOB.log in the folder it was sent from"
    tail -n 200 -F "$(scontrol show job "$id" | sed -n 's/^ *StdOut=//p')"
    ;;
  down)
    id=$(mine)
    [ -n "$id" ] || { echo "no job $name is there" && exit; }
    # To the tasks first: a cancelled job's grace is the cluster's own and may be short.
    scancel --signal=TERM "$id" || true
    sleep "${LIT_TUNE_SAVE_SECONDS:-60}"
    scancel "$id"
    echo "job $id is off the queue"
    ;;
esac
