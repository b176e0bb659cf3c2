#!/bin/bash
# Build the data plane with AddressSanitizer and UndefinedBehaviorSanitizer into build/asan; run the fuzzers and the tests
# in virtual time on it.
# usage: tests/fuzz/sanitize.sh [PYTHON]      FRAMES=1000000 ROUNDS=10000 SEED=1 for a longer run
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
. tests/fuzz/build.sh

runtime=$(clang -print-file-name=libclang_rt.asan-$(uname -m).so)
export LD_PRELOAD=$runtime
"$python" -c 'import neatstack.dataplane.engine as e; assert "build/asan" in e.__file__, e.__file__'
"$python" -m tests.fuzz.frames --count "${FRAMES:-60000}" --seed "${SEED:-1}"
"$python" -m tests.fuzz.channels --rounds "${ROUNDS:-800}" --seed "${SEED:-1}"
"$python" -m pytest -q -m "not heavy" -p no:cacheprovider tests/dataplane/tcp tests/dataplane/socket tests/dataplane/channel \
    tests/dataplane/udp tests/dataplane/test_ip.py tests/dataplane/test_transfer.py
