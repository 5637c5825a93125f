#!/usr/bin/env bash
# N processes of one run on this machine: GPUs shared out between them, or cores.
#
#   launch/local.sh N --config=NAME --workdir=DIR [flags of `lit-tune train`]
#   launch/local.sh N --dry-run ...     prints what would be started, a line a process
#   launch/local.sh VERB ...            local.py: plan, up, run, logs, status, resume, down
#
# Each process writes DIR/logs/process-I.log, process 0 also here. Ctrl-C and SIGTERM are handed on once: the run saves
# and ends; a second one ends it at once. If one process fails the others are ended. The exit code is the worst:
# 2, 3, 4, 5 before any other, 75 (a lost peer, which is only a consequence) last. --restarts=N is the run's own flag.
# While they run, DIR/logs/processes has their numbers, and when each began, for local.py.
# LIT_TUNE_LOCAL_GRACE (60): seconds in which the others of one that failed may end by themselves.
set -euo pipefail

fail() {
  echo "launch/local.sh: $*" >&2
  exit 2
}

number=${1:-}
case $number in plan | up | run | logs | status | resume | down | -h | --help)
  exec python3 "$(dirname "$0")/local.py" "$@"
  ;;
esac
[[ $number =~ ^[1-9][0-9]*$ ]] ||
  fail "N: expected how many processes, or plan, up, run, logs, status, resume or down, found '$number'; for example: local.sh 2 --config=..."
shift
workdir='' dry_run='' words=()
for word in "$@"; do
  case $word in
    --dry-run | --dry_run) dry_run=1 && continue ;;
    --workdir=*) workdir=${word#*=} ;;
    --coordinator* | --num[_-]processes* | --process[_-]id*) fail "$word: expected none of it, local.sh sets it; leave it out" ;;
  esac
  words+=("$word")
done
[ -n "$workdir" ] || fail "--workdir: expected --workdir=DIR, found none; add it"
[[ $workdir != *://* ]] || fail "--workdir: expected a folder here, where the logs go too, found $workdir; name one"
[ -n "$dry_run" ] || command -v lit-tune >/dev/null || fail "lit-tune: expected on the PATH, found nothing; activate its environment"

cards=()
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  # Set to nothing, or to one of these words, it hides all GPUs.
  case $CUDA_VISIBLE_DEVICES in '' | -1 | NoDevFiles) ;; *) IFS=, read -ra cards <<<"$CUDA_VISIBLE_DEVICES" ;; esac
elif command -v nvidia-smi >/dev/null; then
  while read -r card; do cards+=("$card"); done < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)
fi
((${#cards[@]} % number == 0)) || fail "N: expected a number that divides the ${#cards[@]} GPUs, found $number; change it"
share=$((${#cards[@]} / number))

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export LIT_TUNE_COORDINATOR=127.0.0.1:$port LIT_TUNE_NUM_PROCESSES=$number

cards_of() { # cards_of I: CUDA_VISIBLE_DEVICES of process I
  local mine=("${cards[@]:$1*share:share}")
  (IFS=, && echo "${mine[*]}")
}

if [ -n "$dry_run" ]; then
  for ((i = 0; i < number; i++)); do
    variables="LIT_TUNE_COORDINATOR=$LIT_TUNE_COORDINATOR LIT_TUNE_NUM_PROCESSES=$number LIT_TUNE_PROCESS_ID=$i"
    ((share == 0)) || variables+=" CUDA_VISIBLE_DEVICES=$(cards_of "$i")"
    echo "$variables$(printf ' %q' lit-tune train "${words[@]}")"
  done
  exit
fi

began() { # began PID: when that process began, by which another one of the same number is told; nothing if it ended
  if [ -r /proc/self/stat ]; then
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20 || true
  else
    ps -o lstart= -p "$1" | sed 's/ *$//' || true
  fi
}

logs=$workdir/logs
noted=$logs/processes
mkdir -p "$logs"
if [ -s "$noted" ]; then
  while read -r name pid since; do
    [ -z "$since" ] || [ "$(began "$pid")" != "$since" ] ||
      fail "$workdir: expected a folder that no run writes to, found process $pid ($name) at it; \`local.sh down --workdir=$workdir\` ends it"
  done <"$noted"
fi
echo "local.sh $$ $(began $$)" >"$noted"
pids=()
# Process 0 is shown by a `tee` that signals do not end: the last lines are the ones that count.
exec 3> >(trap '' INT TERM && exec tee -a "$logs/process-0.log")
shown=$!

hand_on() { # hand_on SIGNAL [FIRST]: to all processes, or to those from number FIRST on
  local pid
  for pid in ${pids[@]+"${pids[@]:${2:-0}}"}; do kill "-$1" "$pid" 2>/dev/null || true; done
}

alive() { # how many processes there are still
  local pid count=0
  for pid in "${pids[@]}"; do ! kill -0 "$pid" 2>/dev/null || count=$((count + 1)); done
  echo "$count"
}

wait_for() { # wait_for SECONDS: whether all have ended within them
  local end=$((SECONDS + $1))
  while (($(alive) > 0)); do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

told= # how many processes there were when a signal was last handed on
trap 'told=${#pids[@]}; hand_on TERM' TERM INT

set -m # every process in a group of its own, or Ctrl-C would reach it twice: a second signal means "at once"
for ((i = 0; i < number; i++)); do
  if ((share > 0)); then
    CUDA_VISIBLE_DEVICES=$(cards_of "$i")
    export CUDA_VISIBLE_DEVICES
  fi
  ((i == 0)) || exec 3>>"$logs/process-$i.log"
  [ -z "$told" ] || break # the signal cannot reach who is not there yet
  LIT_TUNE_PROCESS_ID=$i lit-tune train "${words[@]}" >&3 2>&1 3>&- &
  pids+=($!)
done
set +m # what this script itself waits for stays in its group, to which the terminal sends Ctrl-C
exec 3>&-
for ((i = 0; i < ${#pids[@]}; i++)); do echo "$i ${pids[i]} $(began "${pids[i]}")" >>"$noted"; done
[ -z "$told" ] || hand_on TERM "$told" # to the one that was being started
number=${#pids[@]}
((number > 0)) || { rm -f "$noted" && exit 143; } # told before the first one was started

# Until one process fails, or all have ended well.
codes=()
failed=
while [ -z "$failed" ] && (($(alive) > 0)); do
  sleep 0.2 || true # ended by a signal: the trap has handed it on
  for ((i = 0; i < number; i++)); do
    if [ -z "${codes[i]:-}" ] && ! kill -0 "${pids[i]}" 2>/dev/null; then
      codes[i]=0
      wait "${pids[i]}" || codes[i]=$?
      ((codes[i] == 0)) || failed=$i
    fi
  done
done
if [ -n "$failed" ]; then
  # The others notice by their heartbeats and say so in their logs; who does not is ended.
  wait_for "${LIT_TUNE_LOCAL_GRACE:-60}" || hand_on TERM
  wait_for 30 || hand_on KILL
fi

worst=0
rank_of_worst=0
for i in $failed $(seq 0 $((number - 1))); do # of equals the first that failed
  if [ -z "${codes[i]:-}" ]; then
    codes[i]=0
    wait "${pids[i]}" || codes[i]=$?
  fi
  case ${codes[i]} in 0) rank=0 ;; 75) rank=1 ;; [2-5]) rank=3 ;; *) rank=2 ;; esac
  ((rank <= rank_of_worst)) || { worst=${codes[i]} && rank_of_worst=$rank; }
done
for ((i = 0; i < 20; i++)); do ! kill -0 "$shown" 2>/dev/null || sleep 0.1; done # the last lines are being shown
((worst == 0)) || echo "launch/local.sh: exit codes ${codes[*]}; logs in $logs" >&2
rm -f "$noted"
exit "$worst"
