# shellcheck shell=bash
# shellcheck disable=SC2034 # much is set here for the scripts that source this
# What the build scripts share: versions, the table of architectures, the cache.
# Sourced, never run; expects `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=versions
. "$ROOT/scripts/versions"
CACHE=${KNARR_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/knarr-build}

# The build tags, the same for builds, vet and tests, so that all of Kubernetes is
# compiled once; with knarr_bundle the bundle is embedded too.
# static_build, sqlite_omit_load_extension and kustomize_disable_go_plugin_support:
#   a static executable loads no plugins; linking Go's plugin package would also
#   make the linker keep every exported method.
# netgo, osusergo: names and users are looked up without the C library.
# nri_no_wasm, no_antithesis_sdk, grpcnotrace, urfave_cli_no_docs: leave out a
#   WebAssembly runtime for containerd's plugins, a test platform's probes, trace
#   pages and documentation generators, which nobody would come to use.
GO_TAGS=netgo,osusergo,static_build,sqlite_omit_load_extension,kustomize_disable_go_plugin_support
GO_TAGS+=,nri_no_wasm,no_antithesis_sdk,grpcnotrace,urfave_cli_no_docs

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
	CC_FLAGS='' LD_FLAGS=''
	case $ARCH in
	amd64) TRIPLE=x86_64-linux-gnu DEB_ARCH=amd64 SUFFIX= ;;
	arm64) TRIPLE=aarch64-linux-gnu DEB_ARCH=arm64 SUFFIX=-arm64 ;;
	arm)
		TRIPLE=arm-linux-gnueabihf DEB_ARCH=armhf SUFFIX=-armhf CC_FLAGS=-marm
		# In an executable larger than a branch reaches (32 MB), ld.bfd takes libc's
		# IFUNC resolvers, which are Thumb code, for ARM code: it dies at its start.
		LD_FLAGS=-fuse-ld=gold
		;;
	*) die "--arch $ARCH: choose amd64, arm64 or arm" ;;
	esac
	BINARY=knarr$SUFFIX
	CROSS_CC=$TRIPLE-gcc
	export GOOS=linux GOARCH=$ARCH GOARM=7 CC=$CROSS_CC
}

# any_go prints the path of whatever Go there is.
any_go() {
	local go
	for go in go /usr/local/go/bin/go /usr/lib/go/bin/go; do
		command -v "$go" && return
	done
	return 1
}

# go_toolchain puts a Go that is new enough first in PATH: the machine's, or the
# one it fetches by itself as go.mod wants, or, where it is too old for that, the
# same one fetched through it into the cache.
go_toolchain() {
	local go
	go=$(any_go) || die "no Go found: run 'sudo scripts/deps', or put Go $GO_VERSION in PATH"
	if ! go_new_enough "$go"; then
		go=$CACHE/go$GO_VERSION/bin/go
		[ -x "$go" ] || fetch_go "$(any_go)"
		go_new_enough "$go" || die "$go does not work here: put Go $GO_VERSION or newer in PATH"
	fi
	PATH=$(dirname "$go"):$PATH
	export PATH
}

# go_new_enough GO: in this source tree, GO is GO_VERSION or newer.
go_new_enough() {
	local have
	have=$(cd "$ROOT" && "$1" env GOVERSION 2>/dev/null) || return 1
	have=${have#go}
	[ "$(printf '%s\n' "$GO_VERSION" "${have%%[- ]*}" | sort -V | head -n1)" = "$GO_VERSION" ]
}

# fetch_go OLD: by means of an older Go, fetch GO_VERSION as the module that Go
# itself would fetch, verified by the checksum database.
fetch_go() {
	local module answer dir dest=$CACHE/go$GO_VERSION tmp
	module=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$(native_arch)
	say "fetching Go $GO_VERSION ($module)"
	mkdir -p "$CACHE"
	answer=$(cd "$CACHE" && env -u GOOS -u GOARCH "$1" mod download -json "$module") || true # which says what is wrong
	dir=$(sed -n 's/^\t"Dir": "\(.*\)",*/\1/p' <<<"$answer")
	[ -n "$dir" ] || die "fetching Go $GO_VERSION failed: put it in PATH ($(sed -n 's/^\t"Error": //p' <<<"$answer"))"
	tmp=$(mktemp -d "$CACHE/.go.XXXXXX")
	cp -r "$dir/." "$tmp"
	chmod -R u+w "$tmp"
	# A module archive keeps no modes.
	chmod +x "$tmp"/bin/* "$tmp"/pkg/tool/*/*
	rm -rf "$dest"
	mv "$tmp" "$dest"
}

# need COMMAND...: stop with one message that names all that are missing.
need() {
	local c missing=
	for c; do command -v "$c" >/dev/null || missing="$missing $c"; done
	[ -z "$missing" ] || die "not found:$missing; run 'sudo scripts/deps --arch $ARCH'"
}
