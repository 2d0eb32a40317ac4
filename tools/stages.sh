# shellcheck shell=bash
# Sourced by every egs/*/*/run.sh. Gives it `stage N NAME [key=value ...]` and the options below.
set -euo pipefail
usage="usage: $0 [--stage N] [--stop-stage N] [--dry-run] [key=value ...]"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -d $root/.venv/bin ]] && PATH=$root/.venv/bin:$PATH
cd "$root"
first=0 last=99 next=0 dry=
while [[ $# -gt 0 ]]; do
  case $1 in
    --stage) first=${2:?$usage}; shift 2 ;;
    --stop-stage) last=${2:?$usage}; shift 2 ;;
    --dry-run) dry="echo"; shift ;;
    -h | --help) echo "$usage"; exit 0 ;;
    *=*) break ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done
overrides=("$@")
stage() { # stage N NAME [key=value ...]: numbers rise by one, or repeat while one stage runs over several choices
  local n=$1 name=$2
  shift 2
  [[ $n -eq $next || $n -eq $((next - 1)) ]] || { echo "$0: stage $n ($name) should be numbered $next" >&2; exit 2; }
  next=$((n + 1))
  if ((n < first || n > last)); then return; fi
  echo "$(date +%T) stage $n: $name $*" >&2
  $dry audiotok "$name" "${recipe:?set recipe= in run.sh}" "$@" "${overrides[@]}"
}
