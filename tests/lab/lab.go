// Package lab makes test hosts on one machine: each host has network, mount,
// pid, uts, ipc and cgroup namespaces of its own and stands on a bridge that
// lives in a namespace without an uplink, so that nothing a host sends can
// leave the machine and nothing it mounts, writes or starts outlives it.
//
// It is not a container runtime and isolates no resources: hosts see the
// machine's kernel, cores and memory. It needs root and Linux.
//
// How it stops: Lab.Close destroys every host. A test process that is killed
// takes its hosts with it, since each host's pid 1 ends when the pipe to its
// maker closes; the directories and cgroups left behind are removed by the next
// New, which finds them by the owner recorded beside them.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netns"
)

const (
	// defaultStateDir holds the hosts' disks; it must be on a file system that
	// can be an overlay's upper layer, and not below a directory of overlays.
	defaultStateDir = "/var/tmp/knarr-lab"
	// firstHost is the last octet of the first host's address.
	firstHost = 10
)

// network is the hosts' LAN: the range RFC 2544 reserves for benchmarks, which
// is routed nowhere.
var network = netip.MustParsePrefix("198.18.0.0/16")

// Lab is a set of hosts on one LAN. Its methods may be used from several
// goroutines.
type Lab struct {
	dir      string // state directory of this lab
	prefix   string // of every cgroup and host device name it makes
	initPath string // the static helper that becomes pid 1 of each host
	lan      netns.NsHandle

	mu    sync.Mutex
	hosts map[string]*Host
	next  int // index of the next host
}

// New makes an empty lab after removing what dead labs left behind. KNARR_LAB_DIR
// overrides where the hosts' disks are kept.
func New(ctx context.Context) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make test hosts: namespaces and mounts need root; run the tests as root")
	}
	base := os.Getenv("KNARR_LAB_DIR")
	if base == "" {
		base = defaultStateDir
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, fmt.Errorf("make lab directory: %w", err)
	}
	if err := sweep(base); err != nil {
		return nil, fmt.Errorf("remove what earlier labs left: %w", err)
	}
	dir, err := claimDir(base)
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: dir, prefix: cgroupPrefix + filepath.Base(dir), hosts: map[string]*Host{}}
	l.initPath = filepath.Join(dir, "labinit")
	if err := buildInit(ctx, l.initPath); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if l.lan, err = newLAN(); err != nil {
		return nil, errors.Join(fmt.Errorf("make the LAN: %w", err), os.RemoveAll(dir))
	}
	return l, nil
}

// ForTest is New for a test: it fails the test when the lab cannot be made and
// closes it when the test ends.
func ForTest(t testing.TB) *Lab {
	t.Helper()
	l, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return l
}

// Dir is the directory that holds the lab's state; what is put there goes away
// with the lab.
func (l *Lab) Dir() string { return l.dir }

// Close destroys all hosts and removes everything the lab made.
func (l *Lab) Close() error {
	l.mu.Lock()
	hosts := make([]*Host, 0, len(l.hosts))
	for _, h := range l.hosts {
		hosts = append(hosts, h)
	}
	l.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.Destroy())
	}
	errs = append(errs, l.lan.Close(), os.RemoveAll(l.dir))
	return errors.Join(errs...)
}

// AddHost makes a host and boots it. The name becomes its hostname; it must be
// unique in the lab and a DNS label.
func (l *Lab) AddHost(ctx context.Context, name string, o Options) (*Host, error) {
	l.mu.Lock()
	if _, taken := l.hosts[name]; taken {
		l.mu.Unlock()
		return nil, fmt.Errorf("add host %s: the lab has one of that name", name)
	}
	h := newHost(l, name, l.next, o)
	l.hosts[name] = h
	l.next++
	l.mu.Unlock()
	if err := h.create(); err != nil {
		return nil, errors.Join(fmt.Errorf("create host %s: %w", name, err), h.Destroy())
	}
	if err := h.Boot(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("boot host %s: %w", name, err), h.Destroy())
	}
	return h, nil
}

// Host is AddHost for a test: it fails the test when the host cannot be made
// and destroys it when the test ends.
func (l *Lab) Host(t testing.TB, name string, o Options) *Host {
	t.Helper()
	h, err := l.AddHost(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Destroy(); err != nil {
			t.Errorf("destroy host %s: %v", name, err)
		}
	})
	return h
}

func (l *Lab) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.hosts, name)
}

// address is the LAN address of the host with index i.
func address(i int) netip.Addr {
	b := network.Addr().As4()
	n := firstHost + i
	b[2], b[3] = byte(n>>8), byte(n)
	return netip.AddrFrom4(b)
}

// gateway is the bridge's own address. It answers pings and nothing else.
func gateway() netip.Addr { return network.Addr().Next() }

// buildInit compiles the helper, statically, so that it also runs on a host
// without a C library.
func buildInit(ctx context.Context, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "github.com/knarr-io/knarr/tests/lab/labinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the hosts' init: %w\n%s", err, b)
	}
	return nil
}
