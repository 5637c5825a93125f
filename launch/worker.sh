#!/usr/bin/env bash
# What happens on a machine of a run; the launchers call it there over ssh.
#
#   worker.sh install EXTRA          Python 3.12 and lit_tune[EXTRA] from the clone that this file is in
#   worker.sh mount BUCKET FOLDER    gs://BUCKET as a folder, by gcsfuse
#   worker.sh nfs SERVER:/PATH FOLDER  a network disk as a folder
#   worker.sh fetch FROM TO          a folder of a bucket onto this machine; what is there already is not copied
#   worker.sh start WORDS...         `lit-tune WORDS` (or `copy FROM TO`) as a systemd unit; {i} is this machine, from 1
#   worker.sh state                  one line: lit-tune-worker HOST none | running | ended CODE
#   worker.sh logs [journalctl flags]
#   worker.sh stop                   SIGTERM, so that the run saves, and wait
#
# A unit outlives the ssh connection, has its log in the journal, and gets SIGTERM when the machine is shut down: a spot
# machine that is taken away gives a run 30 s to save.
set -euo pipefail

unit=lit-tune
clone=$(cd "$(dirname "$0")/.." && pwd)
venv=$HOME/lit_tune_venv
said=$HOME/lit_tune_words
metadata=http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number

install() { # install EXTRA
  local mark=$venv/installed pins=$clone/launch/constraints.txt want
  want=$(cat "$clone/setup.py" "$pins" "$0" | sha256sum)
  if [ "$(cat "$mark" 2>/dev/null)" != "$want $1" ]; then
    # The images have Python 3.10; lit_tune wants 3.11 or newer, so uv brings one.
    python3 -m pip --version >/dev/null 2>&1 || apt python3-pip
    python3 -m pip install --quiet --user 'uv==0.9.*'
    python3 -m uv venv --quiet --clear --python 3.12 "$venv"
    python3 -m uv pip install --quiet --python "$venv/bin/python" --constraint "$pins" --editable "${clone}[$1]"
    echo "$want $1" >"$mark"
  fi
  "$venv/bin/lit-tune" --version
}

apt() { sudo apt-get -qq update && sudo apt-get -qq install --yes "$@"; }

mount_bucket() { # mount_bucket BUCKET FOLDER
  local from=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
  mountpoint --quiet "$2" && return
  if ! command -v gcsfuse >/dev/null; then
    curl --silent --show-error --fail "$from/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $from gcsfuse-$(lsb_release --codename --short) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    apt gcsfuse
  fi
  mkdir -p "$2"
  gcsfuse --implicit-dirs "$1" "$2"
}

mount_nfs() { # mount_nfs SERVER:/PATH FOLDER
  mountpoint --quiet "$2" && return
  command -v mount.nfs >/dev/null || apt nfs-common
  sudo mkdir -p "$2"
  sudo mount -t nfs -o hard,noatime "$1" "$2" # hard: a server that is away for a while is waited for
}

number() { # this machine's place in its slice, from 1; fails where it cannot be told: two machines would do one part
  local from_0
  from_0=$(curl --silent --fail --header 'Metadata-Flavor: Google' "$metadata") || from_0=
  if [[ ! $from_0 =~ ^[0-9]+$ ]]; then
    echo "worker.sh: {i}: expected this machine's number from the metadata server, found '$from_0'; start it again" >&2
    return 1
  fi
  echo $((from_0 + 1))
}

property() { systemctl show "$unit" --property="$1" --value; }

running() { case $(property SubState) in running | start* | stop* | final*) true ;; *) false ;; esac }

start() {
  local words=() word mine=''
  for word in "$@"; do
    if [[ $word == *'{i}'* ]]; then
      [ -n "$mine" ] || mine=$(number) || return 1
      word=${word//'{i}'/$mine}
    fi
    words+=("$word")
  done
  if running; then
    [ "$(cat "$said")" = "${words[*]@Q}" ] && echo "lit-tune is running already" && return
    echo "lit-tune is running with other words; stop it first: $(cat "$said")" >&2
    return 2
  fi
  sudo systemctl stop "$unit" 2>/dev/null || true
  sudo systemctl reset-failed "$unit" 2>/dev/null || true
  echo "${words[*]@Q}" >"$said"
  local program=("$venv/bin/lit-tune")
  [ "${words[0]}" != copy ] || { program=(gcloud storage rsync --recursive) && words=("${words[@]:1}"); }
  # mixed: SIGTERM goes to the program alone, which ends its own children.
  sudo systemd-run --unit="$unit" --uid="$(id -un)" --working-directory="$HOME" --setenv=HOME="$HOME" \
    --setenv=PATH="$venv/bin:$PATH" --setenv=HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-0}" --setenv=PYTHONUNBUFFERED=1 \
    --property=KillMode=mixed --property=TimeoutStopSec=120 --property=RemainAfterExit=yes \
    --property=LimitNOFILE=1048576 --property=LimitMEMLOCK=infinity -- "${program[@]}" "${words[@]}"
}

state() {
  local line code
  line="lit-tune-worker $(hostname)"
  if running; then
    echo "$line running"
  elif [ "$(property LoadState)" != loaded ]; then
    echo "$line none"
  else
    code=$(property ExecMainStatus)
    [ "$(property ExecMainCode)" = 1 ] || code=$((128 + code)) # ended by a signal
    echo "$line ended $code"
  fi
}

case "${1:-}" in
  install) install "$2" ;;
  mount) mount_bucket "$2" "$3" ;;
  nfs) mount_nfs "$2" "$3" ;;
  fetch) mkdir -p "$3" && gcloud storage rsync --recursive "$2" "$3" ;;
  start) shift && start "$@" ;;
  state) state ;;
  logs) shift && sudo journalctl --unit="$unit" --output=cat "$@" ;;
  stop) sudo systemctl stop "$unit" 2>/dev/null || true ;;
  *)
    echo "worker.sh: expected install, mount, nfs, fetch, start, state, logs or stop, found '${1:-}'" >&2
    exit 2
    ;;
esac
