#!/bin/bash
# Fuzzing with coverage guidance: each target of targets.py, on the sanitised build, from its corpus. What is found goes to
# build/fuzz/crashes/TARGET; each such file belongs to tests/fuzz/crashes/TARGET once it is mended.
# usage: SECONDS_ALL=60 tests/fuzz/fuzz.sh [PYTHON [TARGET...]]; the targets share the time
# MERGE=1: afterwards the corpus has what is new, in as few files as reach the same code
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
shift || true
harness=build/asan/harness
. tests/fuzz/build.sh

config() { "$python" -c "import sysconfig; print(sysconfig.get_config_var('$1') or '')"; }
path() { "$python" -c "import sysconfig; print(sysconfig.get_path('$1'))"; }
if [ tests/fuzz/harness.c -nt $harness ]; then # the interpreter itself is as it is: only the data plane is instrumented
    clang -O1 -g -fsanitize=fuzzer,address,undefined -I"$(path include)" tests/fuzz/harness.c -o $harness \
        -L"$(config LIBDIR)" -L"$(config LIBPL)" -Wl,-rpath,"$(config LIBDIR)" -l"python$(config LDVERSION)" -ldl -lm
fi
PYTHONPATH=$PYTHONPATH:$(path purelib)
home=$("$python" -c 'import sys; print(sys.base_prefix)')
[ $# -gt 0 ] || set -- $(grep -oP "for each in \(\K[^)]*" tests/fuzz/targets.py | tr -d ,)
each=$((${SECONDS_ALL:-35} / $#))
failed=0
for target; do
    corpus=tests/fuzz/corpus/$target found=build/fuzz/found/$target crashes=build/fuzz/crashes/$target
    mkdir -p "$corpus" "$found" "$crashes"
    export NEAT_FUZZ_TARGET=$target
    options=(-max_len=1024 -timeout=30 -rss_limit_mb=0 -artifact_prefix="$crashes/" -print_final_stats=1)
    options+=(-max_total_time="$((each > 0 ? each : 1))" -seed="${SEED:-0}")
    if ! PYTHONHOME=$home $harness "${options[@]}" "$found" "$corpus" >"$found.log" 2>&1; then
        tail -n 60 "$found.log" >&2
        failed=1
    fi
    executed=$(grep -oE 'executed_units: [0-9]+' "$found.log" | grep -oE '[0-9]+' || echo none)
    echo "fuzz: $target: $executed inputs, $(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$found.log" | tail -n 1)"
    if [ "${MERGE:-}" ]; then
        rm -rf build/fuzz/merged
        mkdir build/fuzz/merged
        PYTHONHOME=$home $harness -set_cover_merge=1 -use_counters=0 -max_len=1024 build/fuzz/merged "$corpus" "$found" \
            >"$found.log" 2>&1
        rm -rf "$corpus" "$found"
        cp -r build/fuzz/merged "$corpus"
        echo "fuzz: $target: the corpus has $(find "$corpus" -type f | wc -l) files"
    fi
done
exit $failed
