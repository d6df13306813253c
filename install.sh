#!/bin/sh
# Installs knarr on this machine and leaves it running.
#
#   sudo ./install.sh [server|agent] [FLAG...]
#
# In a source checkout it installs what the build needs, builds, and installs
# the result; elsewhere it downloads a release. It sets up a service for systemd
# or OpenRC, and without either a supervised background process. Run again, it
# upgrades, and keeps the command, flags and environment of the last time
# unless told others.
#
# Environment, beside KNARR_*, CONTAINERD_* and the proxy variables, which are
# handed on to knarr by a file that only root can read:
#
#   INSTALL_KNARR_EXEC           command and flags, as one string; arguments of
#                                this script are added to it
#   INSTALL_KNARR_BIN            an executable to install, nothing is downloaded
#   INSTALL_KNARR_SHA256         what its SHA-256 hash must be
#   INSTALL_KNARR_SKIP_DOWNLOAD  true: use the executable already in BIN_DIR
#   INSTALL_KNARR_VERSION        release to download; the newest if not given
#   INSTALL_KNARR_URL            where releases are, instead of the project's own
#   INSTALL_KNARR_BIN_DIR        /usr/local/bin, or /opt/bin where that cannot be
#                                written to
#   INSTALL_KNARR_BIN_DIR_READ_ONLY  true: write nothing there
#   INSTALL_KNARR_SYSTEMD_DIR    /etc/systemd/system
#   INSTALL_KNARR_NAME           the service is called knarr-NAME
#   INSTALL_KNARR_TYPE           systemd's Type=, notify if not given
#   INSTALL_KNARR_SYMLINK        skip: no links kubectl, crictl, ctr;
#                                force: also where the host has these commands
#   INSTALL_KNARR_SKIP_ENABLE    true: not at boot, and not now
#   INSTALL_KNARR_SKIP_START     true: at boot, but not now
#   INSTALL_KNARR_FORCE_RESTART  true: restart even if nothing has changed
#   INSTALL_KNARR_WAIT           seconds to wait for the node, 300 if not given
#
# Everything is in functions and called in the last line, so that a script cut
# off while it is piped into a shell does nothing.
set -eu

CONFIG_DIR=/etc/knarr
MANIFEST=$CONFIG_DIR/install-manifest
LOG=/var/log/knarr.log
RUN_DIR=/run/knarr
RELEASES=https://github.com/knarr-io/knarr/releases

info() { printf '%s\n' "[knarr] $*"; }
warn() { printf '%s\n' "[knarr] warning: $*" >&2; }
die() {
	printf '%s\n' "[knarr] error: $*" >&2
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# is_true VALUE NAME: a variable that is true or false.
is_true() {
	case $1 in
	true | 1 | yes) return 0 ;;
	'' | false | 0 | no) return 1 ;;
	*) die "$2=$1: say true or false" ;;
	esac
}

# quote WORD prints it as one word of sh.
quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

# quote_env VALUE prints it in double quotes, as sh and systemd both read it.
quote_env() { printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"$`]/\\&/g')"; }

# quote_unit WORD prints it as one word of systemd's ExecStart.
quote_unit() { printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g; s/%/%%/g; s/\$/$$/g')"; }

# replace FILE MODE: make FILE of standard input, all at once.
replace() {
	tmp=$(mktemp "$(dirname "$1")/.knarr-tmp-XXXXXX")
	if ! cat >"$tmp" || ! chmod "$2" "$tmp" || ! mv -f "$tmp" "$1"; then
		rm -f "$tmp"
		die "cannot write $1"
	fi
	record "$1"
}

# record PATH: what was created, for `knarr uninstall`.
record() {
	grep -qxF "$1" "$MANIFEST" 2>/dev/null || printf '%s\n' "$1" >>"$MANIFEST"
}

# --- what to install and how -------------------------------------------------

check_host() {
	[ "$(uname -s)" = Linux ] || die "knarr runs on Linux, this is $(uname -s)"
	[ "$(id -u)" = 0 ] || die "run it as root: sudo $0 $*"
	case $(uname -m) in
	x86_64 | amd64) suffix='' ;;
	aarch64 | arm64) suffix=-arm64 ;;
	armv7* | armv8l) suffix=-armhf ;;
	*) die "knarr is made for x86_64, aarch64 and armv7, this is $(uname -m)" ;;
	esac
	if [ -r /proc/cgroups ] && ! awk '$1 == "memory" && $4 == 1 { ok = 1 } END { exit !ok }' /proc/cgroups &&
		! grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
		warn "the memory cgroup is off; on a Raspberry Pi add 'cgroup_memory=1 cgroup_enable=memory' to cmdline.txt and reboot"
	fi
}

# load_options sets what the user decided, now or at an earlier run.
load_options() {
	unit=knarr${INSTALL_KNARR_NAME:+-$INSTALL_KNARR_NAME}
	case $unit in *[!A-Za-z0-9_.@-]*) die "INSTALL_KNARR_NAME=$INSTALL_KNARR_NAME: letters, digits, - and _ only" ;; esac
	options=$CONFIG_DIR/$unit.install
	env_file=$CONFIG_DIR/$unit.env
	saved_command='' saved_bin_dir='' saved_systemd_dir='' saved_type='' saved_symlink=''
	# Written by save_options below, readable by root only.
	# shellcheck disable=SC1090
	[ ! -r "$options" ] || . "$options"

	systemd_dir=${INSTALL_KNARR_SYSTEMD_DIR:-${saved_systemd_dir:-/etc/systemd/system}}
	type=${INSTALL_KNARR_TYPE:-${saved_type:-notify}}
	symlink=${INSTALL_KNARR_SYMLINK:-$saved_symlink}
	case $symlink in '' | skip | force) ;; *) die "INSTALL_KNARR_SYMLINK=$symlink: say skip or force" ;; esac
	wait_for=${INSTALL_KNARR_WAIT:-300}
	case $wait_for in '' | *[!0-9]*) die "INSTALL_KNARR_WAIT=$wait_for: a number of seconds" ;; esac
	bin_dir=${INSTALL_KNARR_BIN_DIR:-$saved_bin_dir}
	if [ -z "$bin_dir" ]; then
		bin_dir=/usr/local/bin
		mkdir -p $bin_dir 2>/dev/null && [ -w $bin_dir ] || bin_dir=/opt/bin
	fi
	binary=$bin_dir/knarr
	load_command "$@"
}

# load_command sets `command`: the arguments of knarr as words of sh.
load_command() {
	if [ -z "${INSTALL_KNARR_EXEC:-}" ] && [ $# = 0 ]; then
		command=$saved_command
	else
		command=
		for word in "$@"; do command="$command $(quote "$word")"; done
		command="${INSTALL_KNARR_EXEC:-} $command"
	fi
	eval "set -- $command" || die "cannot read INSTALL_KNARR_EXEC: ${INSTALL_KNARR_EXEC:-}"
	case ${1:-} in
	server | agent) ;;
	'' | -*)
		role=server
		[ -z "$(value_of KNARR_URL)" ] || role=agent
		set -- $role "$@"
		;;
	*) die "'$1' is no command for a service: say server or agent" ;;
	esac
	role=$1
	if [ "$role" = agent ]; then check_agent "$@"; fi
	command=
	for word in "$@"; do command="$command${command:+ }$(quote "$word")"; done
}

# check_agent refuses an agent that does not know where to go.
check_agent() {
	url=$(value_of KNARR_URL)
	case $url in '' | https://*) ;; *) die "KNARR_URL=$url: must begin with https://" ;; esac
	[ ! -e $CONFIG_DIR/config.yaml ] || return 0
	case " $* " in *" --server"* | *" -s"*) ;; *) [ -n "$url" ] || die "an agent needs KNARR_URL or --server" ;; esac
	case " $* " in
	*" --token"* | *" -t"*) ;;
	*) [ -n "$(value_of KNARR_TOKEN)$(value_of KNARR_TOKEN_FILE)" ] || die "an agent needs KNARR_TOKEN or --token: see the server's node-token" ;;
	esac
}

# value_of NAME: from the environment, else from that of an earlier run.
value_of() {
	if eval "[ -n \"\${$1+set}\" ]"; then
		eval "printf '%s' \"\$$1\""
	elif [ -r "$env_file" ]; then
		# shellcheck disable=SC1090
		(unset "$1" && . "$env_file" && eval "printf '%s' \"\${$1:-}\"")
	fi
}

save_options() {
	{
		echo "# Written by install.sh, which keeps these options when it is run again."
		echo "saved_command=$(quote "$command")"
		echo "saved_bin_dir=$(quote "$bin_dir")"
		echo "saved_systemd_dir=$(quote "$systemd_dir")"
		echo "saved_type=$(quote "$type")"
		echo "saved_symlink=$(quote "$symlink")"
	} | replace "$options" 600
}

# save_environment writes the variables meant for knarr: those set now over
# those of the last time; one that is set and empty is dropped.
save_environment() {
	names=$(env | sed -n 's/^\(\(KNARR\|CONTAINERD\)_[A-Za-z0-9_]*\)=.*/\1/p; s/^\(\(HTTP\|HTTPS\|NO\|http\|https\|no\|ALL\|all\)_\(PROXY\|proxy\)\)=.*/\1/p' |
		grep -v '^KNARR_BUILD_CACHE$' | sort -u || true)
	{
		if [ -r "$env_file" ]; then
			while IFS= read -r line; do
				printf '%s\n' "$names" | grep -qxF "${line%%=*}" || printf '%s\n' "$line"
			done <"$env_file"
		fi
		for name in $names; do
			value=$(eval "printf '%s' \"\$$name\"")
			case $value in
			'') ;;
			*"
"*) warn "$name holds a line break and is left out" ;;
			*) printf '%s=%s\n' "$name" "$(quote_env "$value")" ;;
			esac
		done
	} | replace "$env_file" 600
}

# --- the executable ----------------------------------------------------------

# checkout prints the source tree that this script lies in, if it does.
checkout() {
	case $0 in */install.sh | install.sh) dir=$(cd "$(dirname "$0")" && pwd) ;; *) return 1 ;; esac
	[ -x "$dir/scripts/build" ] && grep -q '^module github.com/knarr-io/knarr$' "$dir/go.mod" 2>/dev/null && printf '%s' "$dir"
}

install_binary() {
	if is_true "${INSTALL_KNARR_BIN_DIR_READ_ONLY:-}" INSTALL_KNARR_BIN_DIR_READ_ONLY; then
		[ -x "$binary" ] || die "there is no $binary, and INSTALL_KNARR_BIN_DIR_READ_ONLY forbids to put one there"
		return 0
	fi
	if ! mkdir -p "$bin_dir" || ! [ -w "$bin_dir" ]; then
		die "cannot write to $bin_dir: choose another directory with INSTALL_KNARR_BIN_DIR"
	fi
	case ${INSTALL_KNARR_SKIP_DOWNLOAD:-} in
	true | binary)
		[ -n "${INSTALL_KNARR_BIN:-}" ] || {
			[ -x "$binary" ] || die "there is no $binary, and INSTALL_KNARR_SKIP_DOWNLOAD is set: put it there, or name one with INSTALL_KNARR_BIN"
			return 0
		}
		;;
	'' | false) ;;
	*) die "INSTALL_KNARR_SKIP_DOWNLOAD=$INSTALL_KNARR_SKIP_DOWNLOAD: say true or false" ;;
	esac
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	if [ -n "${INSTALL_KNARR_BIN:-}" ]; then
		new=$INSTALL_KNARR_BIN
		[ -f "$new" ] || die "INSTALL_KNARR_BIN=$new: there is no such file"
	elif [ -z "${INSTALL_KNARR_URL:-}${INSTALL_KNARR_VERSION:-}" ] && source=$(checkout); then
		build "$source"
		new=$source/dist/knarr$suffix
		[ -n "$suffix" ] && [ -f "$new" ] || new=$source/dist/knarr
	else
		download
		new=$work/knarr
	fi
	if [ -n "${INSTALL_KNARR_SHA256:-}" ]; then
		hash=$(hash_of "$new")
		[ "$hash" = "$INSTALL_KNARR_SHA256" ] || die "$new has SHA-256 $hash, INSTALL_KNARR_SHA256 says $INSTALL_KNARR_SHA256: not installed"
	fi
	put_binary "$new"
}

hash_of() { sha256sum "$1" 2>/dev/null | cut -d' ' -f1; }

# build SOURCE: as the user who called sudo, so that nothing in the checkout
# and in its caches becomes root's.
build() {
	info "building from $1; the first time takes several minutes"
	"$1/scripts/deps" || die "what the build needs could not be installed"
	if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] && [ "$(stat -c %U "$1")" = "$SUDO_USER" ]; then
		sudo -H -u "$SUDO_USER" "$1/scripts/build" || die "the build failed"
	else
		"$1/scripts/build" || die "the build failed"
	fi
}

# fetch URL FILE
fetch() {
	if have curl; then
		curl -fsSL --retry 3 -o "$2" "$1"
	elif have wget; then
		wget -q -O "$2" "$1"
	else
		die "neither curl nor wget found: install one, or download knarr yourself and name it with INSTALL_KNARR_BIN"
	fi || die "cannot download $1"
}

# download leaves a release's executable in $work/knarr, its hash verified.
download() {
	version=${INSTALL_KNARR_VERSION:-}
	if [ -n "${INSTALL_KNARR_URL:-}" ]; then
		url=$INSTALL_KNARR_URL${version:+/$version}
	elif [ -n "$version" ]; then
		url=$RELEASES/download/$version
	else
		url=$RELEASES/latest/download
	fi
	name=knarr$suffix
	fetch "$url/sha256sums" "$work/sha256sums"
	want=$(awk -v n="$name" '$2 == n { print $1 }' "$work/sha256sums")
	[ -n "$want" ] || die "$url/sha256sums does not list $name"
	if [ -x "$binary" ] && [ "$(hash_of "$binary")" = "$want" ]; then
		info "$binary is that release already"
		cp "$binary" "$work/knarr"
		return 0
	fi
	packed=$name.gz unpack='gzip -dc'
	if have zstd; then packed=$name.zst unpack='zstd -dcq --long=27'; fi
	info "downloading $url/$packed"
	fetch "$url/$packed" "$work/packed"
	$unpack "$work/packed" >"$work/knarr" || die "$url/$packed is damaged"
	hash=$(hash_of "$work/knarr")
	[ "$hash" = "$want" ] || die "$url/$packed has SHA-256 $hash, sha256sums says $want: not installed"
}

# put_binary FILE: a running knarr keeps the file it was started from.
put_binary() {
	chmod +x "$1" 2>/dev/null || true
	if cmp -s "$1" "$binary" && [ -x "$binary" ]; then
		record "$binary"
		return 0
	fi
	tmp=$(mktemp "$bin_dir/.knarr-tmp-XXXXXX")
	if ! cp "$1" "$tmp" || ! chmod 755 "$tmp"; then
		rm -f "$tmp"
		die "cannot write to $bin_dir"
	fi
	said=$("$tmp" --version 2>&1) || {
		rm -f "$tmp"
		die "$1 does not run on this machine: $said"
	}
	mv -f "$tmp" "$binary"
	record "$binary"
	info "installed $binary: $(printf '%s' "$said" | head -n1)"
}

make_links() {
	[ "$symlink" != skip ] || return 0
	is_true "${INSTALL_KNARR_BIN_DIR_READ_ONLY:-}" INSTALL_KNARR_BIN_DIR_READ_ONLY && return 0
	for tool in kubectl crictl ctr; do
		link=$bin_dir/$tool
		if [ "$(readlink "$link" 2>/dev/null)" = knarr ]; then
			record "$link"
		elif [ "$symlink" = force ] || { ! have $tool && [ ! -e "$link" ]; }; then
			[ ! -d "$link" ] || die "$link is a directory"
			ln -sf knarr "$link"
			record "$link"
		else
			info "left alone: this host has a $tool of its own ($binary $tool is knarr's)"
		fi
	done
}

# --- the service -------------------------------------------------------------

find_init() {
	init=supervisor
	if [ -d /run/systemd/system ] && have systemctl; then
		init=systemd
	elif [ -e /run/openrc ] && have rc-service; then
		init=openrc
	elif [ -n "${INSTALL_KNARR_NAME:-}" ]; then
		die "INSTALL_KNARR_NAME needs systemd or OpenRC, and this host has neither"
	fi
	case $init in
	systemd) service_file=$systemd_dir/$unit.service ;;
	openrc) service_file=/etc/init.d/$unit ;;
	supervisor) service_file=$CONFIG_DIR/$unit-supervisor ;;
	esac
}

write_systemd() {
	eval "set -- $command"
	start=$(quote_unit "$binary")
	for word in "$@"; do start="$start \\
	$(quote_unit "$word")"; done
	replace "$service_file" 644 <<-END
		[Unit]
		Description=knarr: Kubernetes in one process
		Wants=network-online.target
		After=network-online.target

		[Service]
		Type=$type
		NotifyAccess=main
		EnvironmentFile=-/etc/default/%N
		EnvironmentFile=-/etc/sysconfig/%N
		EnvironmentFile=-$env_file
		# The shims of the pods live in this unit and outlive the process.
		KillMode=process
		Delegate=yes
		LimitNOFILE=1048576
		LimitNPROC=infinity
		LimitCORE=infinity
		TasksMax=infinity
		TimeoutStartSec=0
		TimeoutStopSec=120
		WatchdogSec=60
		Restart=always
		RestartSec=5
		# What a restart does not mend: 2, wrong configuration, and 3, the node was deleted from its cluster.
		RestartPreventExitStatus=2 3
		ExecStartPre=-/sbin/modprobe br_netfilter
		ExecStartPre=-/sbin/modprobe overlay
		ExecStart=$start

		[Install]
		WantedBy=multi-user.target
	END
}

write_openrc() {
	replace "$service_file" 755 <<END
#!/sbin/openrc-run
# Written by knarr's install.sh.

description="knarr: Kubernetes in one process"
supervisor=supervise-daemon
command="$binary"
command_args=$(quote "$command >>$LOG 2>&1")
pidfile=/run/$unit.pid
respawn_delay=5
respawn_max=0
retry="TERM/120"
rc_ulimit="-n 1048576 -u unlimited"

depend() {
	after network-online
	want cgroups
}

start_pre() {
	modprobe -q br_netfilter
	modprobe -q overlay
	return 0
}

set -o allexport
[ ! -r $env_file ] || . $env_file
set +o allexport
END
}

# The supervisor of hosts without systemd and OpenRC. `knarr stop` finds it by
# its pid file and ends it with SIGTERM.
write_supervisor() {
	{
		cat <<-END
			#!/bin/sh
			# Keeps knarr running where neither systemd nor OpenRC does; written by
			# knarr's install.sh. Start: sh $service_file & - stop: knarr stop
			set -u
			env_file=$env_file log=$LOG run_dir=$RUN_DIR
			knarr() { exec $(quote "$binary") $command; }
		END
		cat <<'END'
max_log=33554432 # bytes
stopping=

say() { echo "supervisor: $*"; }

# Only the newest two logs are kept. knarr appends to the file, so that
# cutting it does no harm.
rotate() {
	size=$(stat -c %s "$log" 2>/dev/null || echo 0)
	[ "$size" -lt "$max_log" ] || { cp "$log" "$log.1" && : >"$log"; }
}

# watch_log: as long as this supervisor lives, and no longer.
watch_log() {
	trap 'kill $nap 2>/dev/null; exit' TERM
	while kill -0 $$ 2>/dev/null; do
		rotate
		sleep 300 &
		nap=$!
		wait $nap
	done
}

stop() {
	stopping=1
	[ -z "$child" ] || kill -TERM "$child" 2>/dev/null
	[ -z "$nap" ] || kill "$nap" 2>/dev/null
}

child='' nap='' delay=1
trap '' HUP
trap stop TERM INT
mkdir -p "$run_dir" || exit 1
echo $$ >"$run_dir/supervisor.pid" || exit 1
modprobe -q br_netfilter 2>/dev/null
modprobe -q overlay 2>/dev/null
ulimit -n 1048576 2>/dev/null
if [ -r "$env_file" ]; then
	set -a
	. "$env_file"
	set +a
fi
watch_log &
watcher=$!
while [ -z "$stopping" ]; do
	began=$(date +%s)
	(trap - TERM INT; knarr) &
	child=$!
	# A signal ends wait before knarr has ended: wait again.
	code=255
	while wait $child; code=$?; kill -0 $child 2>/dev/null; do :; done
	child=
	case $code in
	0) break ;;
	2) say "knarr ended with code 2, wrong configuration: correct it and start again"; break ;;
	3) say "knarr ended with code 3: its node was deleted from the cluster"; break ;;
	esac
	[ -z "$stopping" ] || break
	[ $(($(date +%s) - began)) -lt 60 ] || delay=1
	say "knarr ended with code $code; starting it again in $delay s"
	sleep $delay &
	nap=$!
	wait $nap
	nap=
	delay=$((delay * 2))
	[ $delay -le 60 ] || delay=60
done
kill $watcher 2>/dev/null
rm -f "$run_dir/supervisor.pid"
END
	} | replace "$service_file" 700
}

# fingerprint of all that decides whether a running knarr is up to date.
fingerprint() { cat "$binary" "$service_file" "$env_file" 2>/dev/null | sha256sum; }

active() {
	case $init in
	systemd) systemctl -q is-active "$unit" ;;
	openrc) rc-service -q "$unit" status >/dev/null 2>&1 ;;
	supervisor) pid=$(cat $RUN_DIR/supervisor.pid 2>/dev/null) && [ -n "$pid" ] && grep -qa knarr "/proc/$pid/cmdline" 2>/dev/null ;;
	esac
}

enable_service() {
	case $init in
	systemd)
		systemctl daemon-reload
		systemctl -q enable "$unit"
		;;
	openrc) rc-update -q add "$unit" default >/dev/null ;;
	esac
}

start_service() {
	case $init in
	systemd)
		systemctl reset-failed "$unit" 2>/dev/null || true
		systemctl restart --no-block "$unit"
		;;
	openrc)
		if active; then rc-service -q "$unit" restart; else rc-service -q "$unit" start; fi
		;;
	supervisor)
		"$binary" stop >/dev/null || die "the running knarr could not be stopped: see 'knarr status'"
		touch $LOG && chmod 640 $LOG
		detach='nohup'
		! have setsid || detach='setsid'
		# With the environment it would have at boot, not that of this shell.
		env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			$detach sh "$service_file" </dev/null >>$LOG 2>&1 &
		;;
	esac
}

# gave_up: the service has ended for good.
gave_up() {
	case $init in
	systemd) systemctl -q is-failed "$unit" ;;
	*) ! active ;;
	esac
}

show_log() {
	case $init in
	systemd) journalctl -u "$unit" -n 15 --no-pager -o cat >&2 || true ;;
	*) tail -n 15 $LOG >&2 || true ;;
	esac
}

# ready: every component is, and of a server, its node.
ready() {
	"$binary" status >"$work/status" 2>/dev/null </dev/null || return 1
	node=$(sed -n '1s/.* on node \([^, ]*\).*/\1/p' "$work/status")
	[ "$role" = server ] || return 0
	case " $command " in *--disable-agent*) return 0 ;; esac
	"$binary" kubectl get node "$node" --no-headers 2>/dev/null </dev/null | awk '$2 ~ /^Ready/ { ok = 1 } END { exit !ok }'
}

wait_ready() {
	info "waiting for the node to be ready"
	begin=$(date +%s)
	node=
	while ! ready; do
		passed=$(($(date +%s) - begin))
		if [ $passed -gt 2 ] && gave_up; then
			show_log
			die "knarr ended; above is why"
		fi
		if [ $passed -ge "$wait_for" ]; then
			show_log
			die "not ready after $passed s; knarr goes on trying: see 'knarr status'"
		fi
		sleep 1
	done
	info "node $node is ready after $(($(date +%s) - begin)) s"
}

say_what_next() {
	case $init in
	systemd) log="journalctl -u $unit" ;;
	*) log="less $LOG" ;;
	esac
	cat <<-END

		knarr runs on this machine. Next:
	END
	if [ "$role" = server ]; then
		cat <<-END
			  knarr kubectl get pods -A          or any other kubectl command
		END
	fi
	cat <<-END
		  knarr status                       every component, and what it waits for
		  $log
		  knarr stop                         pods go on running
		  knarr uninstall                    shows what it removes, and asks
	END
	[ $init != supervisor ] ||
		info "this host has no service manager that knarr knows: to start it at boot, run 'sh $service_file &' from there"
}

main() {
	check_host "$@"
	load_options "$@"
	find_init
	mkdir -p $CONFIG_DIR
	[ -e $MANIFEST ] || printf '# What install.sh created, for knarr uninstall.\n' >$MANIFEST
	before=$(fingerprint)
	work=
	install_binary
	[ -n "$work" ] || { work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT; }
	make_links
	save_options
	save_environment
	write_$init
	if is_true "${INSTALL_KNARR_SKIP_ENABLE:-}" INSTALL_KNARR_SKIP_ENABLE; then
		info "installed; not enabled and not started, as asked"
		return 0
	fi
	enable_service
	if is_true "${INSTALL_KNARR_SKIP_START:-}" INSTALL_KNARR_SKIP_START; then
		info "installed; not started, as asked"
		return 0
	fi
	if active && [ "$before" = "$(fingerprint)" ] && ! is_true "${INSTALL_KNARR_FORCE_RESTART:-}" INSTALL_KNARR_FORCE_RESTART; then
		info "nothing has changed: the running knarr is left alone"
	else
		start_service
	fi
	wait_ready
	say_what_next
}

main "$@"
