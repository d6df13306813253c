// Package scripts tests the installer on hosts made for it: each is this
// machine's own file system, copied on write, with its processes apart and a
// knarr that only pretends.
package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// hostSetup makes the host in $T and runs /scenario in it. What it leaves
// running ends with the process namespace.
const hostSetup = `
set -eu
mount -t tmpfs tmpfs "$T"
mkdir "$T/upper" "$T/work" "$T/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$T/upper,workdir=$T/work" "$T/root"
cd "$T/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
rm -rf etc/knarr var/log/knarr.log usr/local/bin opt/bin
mkdir -p usr/local/bin fake src
cp "$SOURCE/install.sh" src
cp "$DATA"/knarr "$DATA"/systemctl "$DATA"/rc-service "$DATA"/rc-update fake
cat "$DATA/functions.sh" - >scenario <<'END'
SCENARIO
END
exec chroot . /bin/sh -eu /scenario
`

// run runs a scenario, a script that fails when something is not as it should be.
func run(t *testing.T, scenario string) {
	t.Helper()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", strings.Replace(hostSetup, "SCENARIO", scenario, 1))
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "T=" + mountPoint(t),
		"SOURCE=" + filepath.Dir(wd), "DATA=" + filepath.Join(wd, "testdata", "install"),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("scenario: %v\n%s", err, out)
	}
}

// mountPoint is a directory without the characters that have a meaning in mount
// options, as a test's own may have.
func mountPoint(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "knarr-install-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestInstall(t *testing.T) {
	for name, scenario := range map[string]string{
		"supervised: starts, restarts after a crash, stops": `
			STRAY=1 install server --node-label 'a b'
			tr '\0' '\n' </proc/$(cat /run/knarr/knarr.pid)/environ >/tmp/environ
			hasnot STRAY /tmp/environ
			has 'node testnode is ready' out
			has "args: server --node-label a b" /calls
			[ "$(readlink /usr/local/bin/crictl)" = knarr ]
			for f in /usr/local/bin/knarr /etc/knarr/knarr-supervisor /etc/knarr/knarr.env /etc/knarr/knarr.install /usr/local/bin/crictl; do
				grep -qxF $f /etc/knarr/install-manifest
				[ -e $f ]
			done
			first=$(cat /run/knarr/knarr.pid)
			kill -9 $first
			until [ "$(cat /run/knarr/knarr.pid)" != "$first" ]; do nap; done
			has "ended with code 137; starting it again in 1 s" /var/log/knarr.log
			super=$(cat /run/knarr/supervisor.pid)
			knarr stop
			until [ ! -e /proc/$super ]; do nap; done
			[ ! -e /run/knarr/supervisor.pid ]
			[ "$(grep -c args: /calls)" = 2 ]
		`,
		"run again: nothing new, nothing restarted": `
			KNARR_TOKEN=secret install server --debug
			pid=$(cat /run/knarr/knarr.pid)
			install
			has 'nothing has changed' out
			[ "$(cat /run/knarr/knarr.pid)" = $pid ]
			INSTALL_KNARR_FORCE_RESTART=true install
			[ "$(cat /run/knarr/knarr.pid)" != $pid ]
			[ "$(tail -n1 /calls)" = "token: secret" ]
			[ "$(grep -c 'args: server --debug$' /calls)" = 2 ]
		`,
		"run again: earlier options are kept, new ones win": `
			export INSTALL_KNARR_SKIP_START=true
			INSTALL_KNARR_BIN_DIR=/opt/k INSTALL_KNARR_SYMLINK=skip KNARR_TOKEN=one KNARR_NODE_NAME='it"s $HOME' CONTAINERD_X=y HTTPS_PROXY=p install --debug
			[ -x /opt/k/knarr ] && [ ! -e /opt/k/crictl ] && [ ! -e /usr/local/bin/knarr ]
			[ "$(stat -c %a /etc/knarr/knarr.env /etc/knarr/knarr.install | sort -u)" = 600 ]
			KNARR_TOKEN=two CONTAINERD_X= install
			[ -x /opt/k/knarr ] && [ ! -e /opt/k/crictl ] && [ ! -e /usr/local/bin/knarr ]
			has "'server' '--debug'" /etc/knarr/knarr-supervisor
			(. /etc/knarr/knarr.env && [ "$KNARR_TOKEN" = two ] && [ "$KNARR_NODE_NAME" = 'it"s $HOME' ] && [ "$HTTPS_PROXY" = p ])
			hasnot CONTAINERD_X /etc/knarr/knarr.env
			INSTALL_KNARR_EXEC='server --v=2' install --cluster-cidr 10.1.0.0/16
			has "'server' '--v=2' '--cluster-cidr' '10.1.0.0/16'" /etc/knarr/knarr-supervisor
			hasnot debug /etc/knarr/knarr-supervisor
		`,
		"a knarr that never comes up is explained": `
			echo 1 >/behave
			INSTALL_KNARR_WAIT=2 refused server
			has 'cannot open the datastore' out
			has 'not ready after' out
		`,
		"wrong configuration is not tried again": `
			echo 2 >/behave
			refused server --no-such-flag
			has 'wrong configuration' out
			[ "$(grep -c args: /calls)" = 1 ]
			[ ! -e /run/knarr/supervisor.pid ]
			rm /behave
			install server
			has 'is ready' out
		`,
		"systemd": `
			mkdir -p /run/systemd/system /etc/systemd/system
			cp /fake/systemctl /usr/local/bin
			install server --node-label 'a=50% $x "y"'
			[ "$(cat /systemctl)" = "daemon-reload
-q enable knarr
-q is-active knarr
reset-failed knarr
restart --no-block knarr" ] || { cat /systemctl; exit 1; }
			unit=/etc/systemd/system/knarr.service
			has 'ExecStart="/usr/local/bin/knarr"' $unit
			has '"a=50%% $$x \\"y\\""' $unit
			for line in Type=notify KillMode=process Delegate=yes WatchdogSec=60 TasksMax=infinity EnvironmentFile=-/etc/knarr/knarr.env; do has "^$line\$" $unit; done
			INSTALL_KNARR_NAME=two INSTALL_KNARR_TYPE=exec INSTALL_KNARR_SKIP_ENABLE=true install server
			has '^Type=exec$' /etc/systemd/system/knarr-two.service
			has 'not enabled' out
			[ -e /etc/knarr/knarr-two.env ] && grep -qx /etc/systemd/system/knarr-two.service /etc/knarr/install-manifest
		`,
		"OpenRC": `
			mkdir -p /run/openrc
			cp /fake/rc-service /fake/rc-update /usr/local/bin
			install server --node-label "it's"
			has 'add knarr default' /openrc
			has 'knarr start' /openrc
			sh -n /etc/init.d/knarr
			(. /etc/init.d/knarr && eval "set -- $command_args" && [ "$3" = "it's" ] && [ "$supervisor" = supervise-daemon ] && [ $command = /usr/local/bin/knarr ])
			[ -x /etc/init.d/knarr ]
		`,
		"agent": `
			export INSTALL_KNARR_SKIP_START=true
			KNARR_URL=http://a refused
			has 'must begin with https' out
			KNARR_URL=https://a:6443 refused
			has 'KNARR_TOKEN' out
			refused agent
			has 'KNARR_URL or --server' out
			[ ! -e /etc/knarr/knarr-supervisor ] && [ ! -e /usr/local/bin/knarr ]
			KNARR_URL=https://a:6443 KNARR_TOKEN=t install
			has "knarr' 'agent'" /etc/knarr/knarr-supervisor
			install agent --node-label x
			has "knarr' 'agent' '--node-label' 'x'" /etc/knarr/knarr-supervisor
			INSTALL_KNARR_EXEC='agent --server https://b:6443 --token u' install
		`,
		"links": `
			export INSTALL_KNARR_SKIP_START=true
			printf '#!/bin/sh\n' >/usr/local/bin/crictl && chmod +x /usr/local/bin/crictl
			install
			has 'left alone: this host has a crictl' out
			[ ! -L /usr/local/bin/crictl ]
			hasnot bin/crictl /etc/knarr/install-manifest
			INSTALL_KNARR_SYMLINK=force install
			[ -L /usr/local/bin/crictl ] && [ -L /usr/local/bin/kubectl ]
			[ "$(grep -c bin/crictl /etc/knarr/install-manifest)" = 1 ]
		`,
		"a release: downloaded, its hash verified": `
			export INSTALL_KNARR_SKIP_START=true INSTALL_KNARR_BIN= INSTALL_KNARR_URL=file:///release INSTALL_KNARR_VERSION=v1
			mkdir -p /release/v1 && cd /release/v1
			for n in knarr knarr-arm64 knarr-armhf; do cp /fake/knarr $n; zstd -q $n; gzip -k $n; done
			sha256sum * >sha256sums
			install
			cmp /fake/knarr /usr/local/bin/knarr
			for n in knarr knarr-arm64 knarr-armhf; do echo '#!/bin/sh' >$n; zstd -qf $n; gzip -kf $n; done
			install
			has 'is that release already' out
			rm /usr/local/bin/knarr
			refused
			has 'not installed' out
			[ ! -e /usr/local/bin/knarr ]
			INSTALL_KNARR_VERSION=v2 refused
			has 'cannot download file:///release/v2/sha256sums' out
		`,
		"executables given": `
			export INSTALL_KNARR_SKIP_START=true
			INSTALL_KNARR_SHA256=00 refused
			has 'not installed' out
			INSTALL_KNARR_BIN=/none refused
			has 'there is no such file' out
			printf 'not for this machine' >/bad
			INSTALL_KNARR_BIN=/bad refused
			has 'does not run on this machine' out
			[ ! -e /usr/local/bin/knarr ] && [ -z "$(ls -A /usr/local/bin)" ]
			INSTALL_KNARR_SHA256=$(sha256sum /fake/knarr | cut -d' ' -f1) install
			INSTALL_KNARR_BIN= INSTALL_KNARR_SKIP_DOWNLOAD=true install
			rm /usr/local/bin/knarr
			INSTALL_KNARR_BIN= INSTALL_KNARR_SKIP_DOWNLOAD=true refused
			has 'INSTALL_KNARR_SKIP_DOWNLOAD is set' out
		`,
		"bad options": `
			INSTALL_KNARR_SKIP_START=perhaps refused
			has 'say true or false' out
			INSTALL_KNARR_SYMLINK=maybe refused
			INSTALL_KNARR_NAME=a/b refused
			INSTALL_KNARR_WAIT=long refused
			refused kubectl get nodes
			has 'say server or agent' out
		`,
		"a script cut off does nothing": `
			head -c -10 /src/install.sh >/cut.sh
			INSTALL_KNARR_BIN=/fake/knarr sh /cut.sh server || true
			[ ! -e /etc/knarr ] && [ ! -e /usr/local/bin/knarr ]
		`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, scenario)
		})
	}
}
