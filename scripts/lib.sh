# shellcheck shell=bash
# shellcheck disable=SC2034 # much is set here for the scripts that source this
# What the build scripts share: versions, the table of architectures, the cache.
# Sourced, never run; expects `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=versions
. "$ROOT/scripts/versions"
CACHE=${KNARR_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/knarr-build}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# native_arch prints this machine's architecture by Go's name.
native_arch() {
	case $(uname -m) in
	x86_64) echo amd64 ;;
	aarch64 | arm64) echo arm64 ;;
	armv7* | armv8l) echo arm ;;
	*) die "knarr is built on amd64, arm64 and armv7, not on $(uname -m)" ;;
	esac
}

# use_arch ARCH sets what the compilers need to know of ARCH (Go's name).
use_arch() {
	ARCH=$1
	CC_FLAGS=
	case $ARCH in
	amd64) TRIPLE=x86_64-linux-gnu DEB_ARCH=amd64 SUFFIX= ;;
	arm64) TRIPLE=aarch64-linux-gnu DEB_ARCH=arm64 SUFFIX=-arm64 ;;
	arm) TRIPLE=arm-linux-gnueabihf DEB_ARCH=armhf SUFFIX=-armhf CC_FLAGS=-marm ;;
	*) die "--arch $ARCH: choose amd64, arm64 or arm" ;;
	esac
	BINARY=knarr$SUFFIX
	CROSS_CC=$TRIPLE-gcc
	export GOOS=linux GOARCH=$ARCH GOARM=7 CC=$CROSS_CC
}

# go_toolchain puts a Go that is new enough first in PATH, or says what to do.
# scripts/deps leaves one in the cache where the machine has none.
go_toolchain() {
	local dir
	for dir in "" /usr/local/go/bin /usr/lib/go/bin "$CACHE/go/bin"; do
		if [ -x "${dir:+$dir/}go" ] || { [ -z "$dir" ] && command -v go >/dev/null; }; then
			if go_new_enough "${dir:+$dir/}go"; then
				[ -z "$dir" ] || PATH=$dir:$PATH
				export PATH
				return
			fi
		fi
	done
	die "no Go $GO_VERSION or newer found: run 'sudo scripts/deps', or put one in PATH"
}

# go_new_enough GO: GO works here and is, or can fetch by itself, GO_VERSION.
go_new_enough() {
	local have
	have=$(cd "$ROOT" && "$1" env GOVERSION 2>/dev/null) || return 1
	have=${have#go}
	[ "$(printf '%s\n' "$GO_VERSION" "${have%%[- ]*}" | sort -V | head -n1)" = "$GO_VERSION" ]
}

# need COMMAND...: stop with one message that names all that are missing.
need() {
	local c missing=
	for c; do command -v "$c" >/dev/null || missing="$missing $c"; done
	[ -z "$missing" ] || die "not found:$missing; run 'sudo scripts/deps --arch $ARCH'"
}
