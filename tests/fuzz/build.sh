# Sourced by sanitize.sh and fuzz.sh, with $python set: the data plane built by clang into build/asan, with
# AddressSanitizer, UndefinedBehaviorSanitizer and libFuzzer's coverage counters, and the environment to run it in.
tree=build/asan/lib

[ -d $tree ] || echo "building the sanitised data plane (some minutes the first time)"
NEAT_BUILD=asan "$python" setup.py -q build_py --build-lib "$tree" build_ext --build-lib "$tree" --build-temp build/asan/temp

export PYTHONPATH="$tree:." PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS=detect_leaks=0:handle_abort=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
