# Shared by the scripts of this folder: where things are, and how they speak. Sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export root

# Colours only where a person is looking.
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' cyan=$'\e[36m' yellow=$'\e[33m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' dim='' green='' cyan='' yellow='' red='' plain=''
fi
export bold dim green cyan yellow red plain

say()  { printf '%s\n' "$*"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
warn() { printf '%s%s%s\n' "$yellow" "$*" "$plain" >&2; }
die()  { printf '%s%s: %s%s\n' "$red" "$(basename "$0")" "$*" "$plain" >&2; exit 1; }

# The folder cargo builds into.
target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$root/target}"; }

# absolute PATH: the same path from the root of the file system.
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$PWD" "$1" ;; esac; }

# sha256_of FILE
sha256_of() { sha256sum -- "$1" | cut -d' ' -f1; }

# step TITLE COMMAND...: runs it and prints how long it took; a failure ends the script with the command's status.
step() {
  local title=$1 began=$SECONDS status=0
  shift
  printf '%s==> %s%s\n' "$bold" "$title" "$plain"
  "$@" || status=$?
  local took=$((SECONDS - began))
  if ((status)); then
    printf '%s==> %s: failed with status %d after %dm%02ds%s\n' "$red" "$title" "$status" $((took / 60)) $((took % 60)) "$plain" >&2
    exit "$status"
  fi
  printf '%s    %s: %dm%02ds%s\n' "$dim" "$title" $((took / 60)) $((took % 60)) "$plain"
  # For the benchmarks page, which shows how long building and testing took here last.
  if [[ -n ${STEP_TIMES:-} ]]; then printf '%s\t%d\n' "$title" "$took" >>"$STEP_TIMES"; fi
}

# free_port [FIRST]: a TCP port nobody listens on, from FIRST upward. Opening a connection is the only test that
# needs no tool: it fails where nobody listens.
free_port() {
  local port=${1:-6390}
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    port=$((port + 1))
    ((port < 65536)) || die "no free TCP port from ${1:-6390} upward"
  done
  printf '%s' "$port"
}
