#!/bin/sh
# Counts from outside what a sealed workload asks of the driver, and fails unless that is nothing.
#
# usage: check.sh CALOR-SUITE [ARGUMENT...]
#
# The arguments go to the program, such as `--libraries DIR`. Needs a GPU and a C compiler.
# The second run compiles a kernel while sealed: that it is found shows that the count can fail.
set -eu
suite=$1
shift
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CC:-cc}" -O2 -Wall -shared -fPIC -fvisibility=hidden -o "$work/count.so" "$here/count.c" -ldl

# The first workload has products of our own only, the second the library's as well.
# Nobody but the program itself may compile or keep what was compiled.
run() {
    report=$1
    shift
    CUDA_DISABLE_PTX_JIT=1 CUDA_CACHE_DISABLE=1 CALOR_OUTSIDE_REPORT="$report" \
        LD_PRELOAD="$work/count.so" "$suite" --sealed "$@" minilm 'large 1x512' > "$work/said"
    grep -q '^calor: ended$' "$work/said"
}

# What was called while sealed; nothing where the workload keeps its promise.
late() {
    awk '$3 > 0 { print $1, $2, $3 }' "$1"
}

run "$work/clean" "$@"
run "$work/planted" --plant "$@"
awk '$4 > 0 { print "in all:", $1, $2, $4 }' "$work/clean"
status=0
for what in compile load allocate instantiate heuristic; do
    if ! awk -v what="$what" '$1 == what { sum += $4 } END { exit sum == 0 }' "$work/clean"; then
        echo "FAILED: no $what was seen at all, so nothing is proven"
        status=1
    fi
done
if [ -n "$(late "$work/clean")" ]; then
    echo "FAILED: while sealed:"
    late "$work/clean"
    status=1
fi
for what in compile load; do
    if ! late "$work/planted" | grep -q "^$what "; then
        echo "FAILED: a planted $what was not seen"
        status=1
    fi
done
[ "$status" -ne 0 ] || echo "ok: nothing while sealed; what was planted was seen:"
[ "$status" -ne 0 ] || late "$work/planted"
exit "$status"
