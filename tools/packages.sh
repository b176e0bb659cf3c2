#!/bin/bash
# Install the Debian packages that building, testing and measuring need; only those whose files are missing.
# Servers that come along are neither started nor enabled. Usage: tools/packages.sh PYTHON
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" LC_ALL=C
python=${1:-python3}
packages=() services=()

need() { # PACKAGE SERVICE-OR-DASH COMMAND...: the package, if one of the commands is missing
    local package=$1 service=$2 command
    shift 2
    for command; do
        command -v "$command" >/dev/null && continue
        packages+=("$package")
        [ "$service" = - ] || services+=("$service")
        return 0
    done
}

header() { # PACKAGE HEADER: the package, if the C compiler cannot find the header
    echo "#include <$2>" | gcc -E -x c - >/dev/null 2>&1 || packages+=("$1")
}

need gcc - gcc
need clang - clang
command -v gcc >/dev/null || packages+=(libc6-dev libbpf-dev libelf-dev zlib1g-dev linux-libc-dev)
if command -v gcc >/dev/null; then
    header libc6-dev stdio.h
    header libbpf-dev bpf/libbpf.h
    header libelf-dev libelf.h
    header zlib1g-dev zlib.h
fi
if ! [ -e "$(clang -print-runtime-dir 2>/dev/null)/libclang_rt.fuzzer-$(uname -m).a" ] &&
    ! [ -e "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a" 2>/dev/null)" ]; then
    version=$(clang -dumpversion 2>/dev/null || echo 14) # of Debian 12
    packages+=("libclang-rt-${version%%.*}-dev")
fi
need iproute2 - ip ss
need util-linux - taskset setsid
need curl - curl
need wrk - wrk
need tshark - tshark capinfos
need valgrind - valgrind
need iperf3 iperf3 iperf3
need lighttpd lighttpd lighttpd
need nginx-light nginx nginx
need redis-server redis-server redis-server
need redis-tools - redis-cli redis-benchmark
need bind9-dnsutils - dig
need dnsmasq-base - dnsmasq
need chromium - chromium
need chromium-driver - chromedriver
if ! /usr/bin/python3 -c 'import test.test_socket' 2>/dev/null; then # of Debian's Python, whichever runs the stack
    version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo 3.11)
    packages+=("libpython$version-testsuite")
fi
command -v "$python" >/dev/null || packages+=(python3 python3-dev python3-venv)
if command -v "$python" >/dev/null; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "packages: $python is $("$python" --version); Python 3.11 or newer is needed: make PYTHON=..." >&2; exit 1; }
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip' 2>/dev/null || packages+=("python$version-venv")
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        packages+=("python$version-dev")
fi

[ ${#packages[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "packages: this is not Debian; install by hand what it calls: ${packages[*]}" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "packages: missing: ${packages[*]}; as root: apt-get install ${packages[*]}" >&2
    exit 1
fi

echo "packages: installing ${packages[*]}"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then # installation scripts ask it whether they may start a service
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get -q update && apt-get -q -y --no-install-recommends install "${packages[@]}"; } </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "packages: apt-get failed, see above and $log" >&2
    exit 1
fi
rm -f "$log"
if [ ${#services[@]} -gt 0 ] && command -v systemctl >/dev/null; then
    systemctl -q disable "${services[@]}" 2>/dev/null || true
fi
