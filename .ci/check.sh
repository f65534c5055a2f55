#!/usr/bin/env bash
# check.sh FORGE: what a pull request's check does, the same at every forge (github, gitea, gitlab).
# SPECS: folder of the specs; BASE: what it goes into; STATE: a state file, or empty for what is live;
# REQUEST, COMMIT: where to say it. Exits as `plan --detailed-exitcode`, but 0 for mere changes.
set -uo pipefail
forge=$1
plan=(shardwright plan --base "$BASE" --path "${SPECS:-.}" ${STATE:+--state "$STATE"})
work=$(mktemp -d)

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
rm -rf "$work"
case $outcome in 0 | 2 | 3 | 5) exit 0 ;; *) exit "$outcome" ;; esac
