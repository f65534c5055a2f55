#!/usr/bin/env bash
# check.sh FORGE: what a pull request's check does, the same at every forge (github, gitea, gitlab).
# SPECS: folder of the specs; BASE: what it goes into; STATE: a state file, or empty for what is live;
# REQUEST, COMMIT: where to say it. Exits as `plan --detailed-exitcode`, but 0 for mere changes.
# Where no shardwright is on the path, it is installed from the repository that this file is of.
set -uo pipefail
forge=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! command -v shardwright > /dev/null; then   # in a folder of its own: a system's Python takes no packages
  python3 -m venv "$work/venv" && "$work/venv/bin/python" -m pip install --quiet "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
  PATH=$work/venv/bin:$PATH
fi
plan=(shardwright plan --base "$BASE" --path "${SPECS:-.}" ${STATE:+--state "$STATE"})

"${plan[@]}" --detailed-exitcode -o markdown > "$work/plan.md" 2> "$work/errors"
outcome=$?
if [ ! -s "$work/plan.md" ]; then   # the specs hold mistakes: the comment lists them
  { echo '<!-- shardwright:plan -->'; echo '### shardwright: no plan can be made'; echo '```'; cat "$work/errors"; echo '```'; } > "$work/plan.md"
fi
case $forge in
  gitlab)
    "${plan[@]}" -o gitlab > shardwright.codequality.json 2> /dev/null || true
    "${plan[@]}" -o junit > shardwright.junit.xml 2> /dev/null || true ;;
  *) "${plan[@]}" -o github 2> /dev/null || true ;;
esac
[ -n "${GITHUB_STEP_SUMMARY:-}" ] && cat "$work/plan.md" >> "$GITHUB_STEP_SUMMARY"
shardwright comment --forge "$forge" --request "$REQUEST" --commit "$COMMIT" --outcome "$outcome" "$work/plan.md" || true
cat "$work/errors" >&2
case $outcome in 0 | 2 | 3 | 5) exit 0 ;; *) exit "$outcome" ;; esac
