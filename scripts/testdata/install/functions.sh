# shellcheck shell=sh
# What the scenarios of install_test.go use.
PATH=/usr/local/bin:$PATH
export INSTALL_KNARR_BIN=/fake/knarr INSTALL_KNARR_WAIT=30
exec 3>&2

nap() { sleep 0.05; }

# install [ARGUMENT...]: must succeed. What it says is in the file out.
install() {
	if ! sh /src/install.sh "$@" >/tmp/out 2>&1; then
		echo "install.sh $*: failed:" >&3
		cat /tmp/out >&3
		exit 1
	fi
}

# refused [ARGUMENT...]: must fail.
refused() {
	if sh /src/install.sh "$@" >/tmp/out 2>&1; then
		echo "install.sh $*: accepted:" >&3
		cat /tmp/out >&3
		exit 1
	fi
}

file() { [ "$1" != out ] && echo "$1" || echo /tmp/out; }

has() {
	grep -q -e "$1" "$(file "$2")" && return
	echo "no '$1' in $2:" >&3
	cat "$(file "$2")" >&3
	return 1
}

hasnot() {
	! grep -q -e "$1" "$(file "$2")" && return
	echo "'$1' is in $2:" >&3
	cat "$(file "$2")" >&3
	return 1
}

