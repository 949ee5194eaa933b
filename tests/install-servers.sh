#!/usr/bin/env bash
# Real servers and clients for the tests and the benchmarks: redis-server, Prometheus and its promtool, nginx, the load
# generators wrk and h2load, and curl. What is not on the PATH is unpacked from Debian's packages into the folder given,
# so that nothing is installed on the machine and no service is started.
set -euo pipefail
target=$(mkdir -p "$1" && cd "$1" && pwd)
mkdir -p "$target/bin"

# A browser is linked with too much to be unpacked by hand. It is installed where that can be done.
if ! command -v chromium >/dev/null; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        { apt-get update --quiet --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends chromium; } \
            >/dev/null 2>&1 || echo "install-servers: could not install chromium; what needs it will say so" >&2
    else
        echo "install-servers: chromium is not on the PATH, and only root can install it; what needs it will say so" >&2
    fi
fi

declare -A package=([redis-server]=redis-tools [promtool]=prometheus [prometheus]=prometheus [nginx]=nginx [wrk]=wrk [h2load]=nghttp2-client [curl]=curl)
# What a program needs beside its package: the libraries it is linked with. Their names change from release to release;
# those that a release doesn't know are passed over.
declare -A libraries=(
    [redis-server]="redis-server libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson libatomic1 libsystemd0"
    [promtool]=""
    [prometheus]=""
    [nginx]="nginx-core libpcre2-8-0 libssl3 libssl3t64 libcrypt1"
    [wrk]="libluajit-5.1-2 libluajit-5.1-common libssl3 libssl3t64"
    [h2load]="libnghttp2-14 libev4 libev4t64 libjansson4 libjemalloc2 libssl3 libssl3t64 libxml2 libicu72 libicu76"
    [curl]="libcurl4 libcurl4t64 libnghttp2-14 libnghttp3-9 librtmp1 libssh2-1 libssh2-1t64 libpsl5 libpsl5t64 libldap-2.5-0 libldap2 libsasl2-2 libbrotli1 libssl3 libssl3t64"
)
missing=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || [ -x "$target/bin/$program" ] || missing+=("$program")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "install-servers: ${missing[*]}: not on the PATH, and this is not Debian; what needs them will say so" >&2
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fetch() {
    local wanted=() name
    for program in "${missing[@]}"; do
        wanted+=("${package[$program]}")
        for name in ${libraries[$program]}; do
            if [ -n "$(apt-cache show "$name" 2>/dev/null)" ]; then wanted+=("$name"); fi
        done
    done
    apt-get download --quiet --quiet "${wanted[@]}" 2>"$work/log"
}
if ! fetch; then
    # A new machine has no package lists yet.
    [ "$(id -u)" -eq 0 ] && apt-get update --quiet --quiet 2>>"$work/log" || true
    fetch || { cat "$work/log" >&2; echo "install-servers: could not download ${missing[*]}; what needs them will say so" >&2; exit 0; }
fi
for deb in ./*.deb; do dpkg-deb --extract "$deb" "$target/root"; done
found="$target/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu"):$target/root/lib/$(uname -m)-linux-gnu"
mkdir -p "$target/root/usr/bin" "$target/root/usr/sbin"
for program in "${missing[@]}"; do
    real=$(find "$target/root/usr/bin" "$target/root/usr/sbin" -name "$program" 2>/dev/null | head -n 1)
    # redis-server is a link to redis-check-rdb in one package and a file in another, whichever came.
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "%s" "$@"\n' "$found" "$real" >"$target/bin/$program"
    chmod +x "$target/bin/$program"
    # Not all of them know --version; one that lacks a library ends with 127.
    "$target/bin/$program" --version >/dev/null 2>&1 || [ $? -ne 127 ] || echo "install-servers: $program does not start; what needs it will say so" >&2
done
