#!/usr/bin/env bash
# Real servers for the tests: redis-server and promtool. What is not on the PATH is unpacked from Debian's packages into
# the folder given, so that nothing is installed on the machine and no service is started.
set -euo pipefail
target=$(mkdir -p "$1" && cd "$1" && pwd)
mkdir -p "$target/bin"

declare -A package=([redis-server]=redis-tools [promtool]=prometheus)
missing=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || [ -x "$target/bin/$program" ] || missing+=("$program")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "install-servers: ${missing[*]}: not on the PATH, and this is not Debian; tests that need them will say so" >&2
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
wanted=()
for program in "${missing[@]}"; do wanted+=("${package[$program]}"); done
# redis-server's binary and the libraries it is linked with stand in packages of their own.
[[ " ${missing[*]} " == *" redis-server "* ]] && wanted+=(redis-server libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson libatomic1 libsystemd0)
fetch() { apt-get download --quiet --quiet "${wanted[@]}" 2>"$work/log"; }
if ! fetch; then
    # A new machine has no package lists yet.
    [ "$(id -u)" -eq 0 ] && apt-get update --quiet --quiet 2>>"$work/log" || true
    fetch || { cat "$work/log" >&2; echo "install-servers: could not download ${wanted[*]}; tests that need them will say so" >&2; exit 0; }
fi
for deb in ./*.deb; do dpkg-deb --extract "$deb" "$target/root"; done
libraries="$target/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu"):$target/root/lib/$(uname -m)-linux-gnu"
for program in "${missing[@]}"; do
    real=$(find "$target/root/usr/bin" -name "$program" | head -n 1)
    # redis-server is a link to redis-check-rdb in one package and a file in another, whichever came.
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "%s" "$@"\n' "$libraries" "$real" >"$target/bin/$program"
    chmod +x "$target/bin/$program"
    "$target/bin/$program" --version >/dev/null || echo "install-servers: $program does not start; tests that need it will say so" >&2
done
