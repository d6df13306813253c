package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/apart"
	"github.com/knarr-io/knarr/tests/lab/labinit/spec"
)

// Options say what a host has.
type Options struct {
	// Bare gives the host a root file system with nothing but a shell and
	// coreutils (busybox): no C library, no mount, ip, nft, iptables, runc.
	// Otherwise it sees the machine's /usr, /etc, /opt, /root, /home and /srv
	// through an overlay and may change them for itself.
	Bare bool
	// Binds are further paths of the machine to be seen in the host.
	Binds []spec.Bind
}

// Host is one test host. Its disk outlives Crash and Boot, its processes,
// mounts, links and packet filters do not.
type Host struct {
	lab   *Lab
	name  string
	index int
	opts  Options
	trees []hierarchy
	path  string // PATH of what runs in the host

	mu    sync.Mutex // guards what a boot makes
	init  *exec.Cmd
	alive io.WriteCloser // while it is open the host lives
	ns    map[string]int // namespace kind to descriptor
}

// namespaces in the order in which they are entered: mount last but pid, since
// /proc of the machine is needed until then.
var namespaces = []string{"net", "uts", "ipc", "cgroup", "pid", "mnt"}

func newHost(l *Lab, name string, index int, o Options) *Host {
	h := &Host{lab: l, name: name, index: index, opts: o, path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if o.Bare {
		h.path = "/bin"
	}
	return h
}

// Name is the hostname.
func (h *Host) Name() string { return h.name }

// Addr is the host's address on the LAN.
func (h *Host) Addr() netip.Addr { return address(h.index) }

// Disk is where the machine sees the host's disk: the root of a bare host; the
// changes to the machine's directories, and /var, of the other kind.
func (h *Host) Disk() string { return filepath.Join(h.lab.dir, h.name) }

func (h *Host) slice() string { return h.lab.prefix + "-" + h.name }

// create makes the host's disk and cgroups.
func (h *Host) create() error {
	var err error
	if h.trees, err = hierarchies(); err != nil {
		return err
	}
	if err := h.makeDisk(); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

// Boot starts a host that is down. It returns when the host is on the LAN.
func (h *Host) Boot(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.init != nil {
		return fmt.Errorf("boot %s: it is up", h.name)
	}
	for _, t := range h.trees {
		if err := t.slice(h.slice()); err != nil {
			return err
		}
	}
	if err := h.startInit(ctx); err != nil {
		return err
	}
	if err := h.connect(); err != nil {
		return errors.Join(fmt.Errorf("connect %s: %w", h.name, err), h.haltLocked())
	}
	return nil
}

// startInit clones pid 1 of the host into new namespaces and waits until it has
// arranged the mounts.
func (h *Host) startInit(ctx context.Context) error {
	aliveR, aliveW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer aliveR.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make pipe: %w", err), aliveW.Close())
	}
	defer reportR.Close()
	cmd := exec.Command(h.lab.initPath)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = aliveR, reportW, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET}
	err = apart.OnThread(func() error { return h.inCgroups(cmd.SysProcAttr, cmd.Start) })
	errs := errors.Join(err, reportW.Close())
	if errs != nil {
		return errors.Join(fmt.Errorf("start init: %w", errs), aliveW.Close())
	}
	h.init, h.alive = cmd, aliveW
	if err := h.handshake(ctx, aliveW, reportR); err != nil {
		return errors.Join(err, h.haltLocked())
	}
	return h.openNamespaces()
}

// handshake hands init its specification and waits for its word that the host
// is arranged.
func (h *Host) handshake(ctx context.Context, w io.Writer, r *os.File) error {
	b, err := json.Marshal(h.spec())
	if err != nil {
		return fmt.Errorf("encode init's specification: %w", err)
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("hand init its specification: %w", err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	if err := r.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("limit the wait for init: %w", err)
	}
	said, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("wait for init: %w", err)
	}
	if string(said) != spec.Ready {
		return fmt.Errorf("init did not come up: %s", strings.TrimSpace(string(said)))
	}
	return nil
}

func (h *Host) openNamespaces() error {
	h.ns = map[string]int{}
	for _, kind := range namespaces {
		path := fmt.Sprintf("/proc/%d/ns/%s", h.init.Process.Pid, kind)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return errors.Join(fmt.Errorf("open %s: %w", path, err), h.haltLocked())
		}
		h.ns[kind] = fd
	}
	return nil
}

// inCgroups runs start on a thread that is in the host's cgroups.
func (h *Host) inCgroups(attr *syscall.SysProcAttr, start func() error) error {
	for _, t := range h.trees {
		if err := t.join(h.slice()); err != nil {
			return err
		}
	}
	fd, err := v2FD(h.trees, h.slice())
	if err != nil {
		return err
	}
	if fd >= 0 {
		defer unix.Close(fd)
		attr.UseCgroupFD, attr.CgroupFD = true, fd
	}
	return start()
}

// Crash ends every process of the host at once, as a power cut does, and with
// them its mounts, links and memory. The disk stays; Boot starts it again.
func (h *Host) Crash() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.haltLocked()
}

func (h *Host) haltLocked() error {
	if h.init == nil {
		return nil
	}
	var errs []error
	for kind, fd := range h.ns {
		if err := unix.Close(fd); err != nil {
			errs = append(errs, fmt.Errorf("close %s namespace: %w", kind, err))
		}
	}
	h.ns = nil
	if err := h.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, fmt.Errorf("kill init: %w", err))
	}
	// Wait returns only when the kernel has ended the whole pid namespace.
	var exit *exec.ExitError
	if err := h.init.Wait(); err != nil && !errors.As(err, &exit) {
		errs = append(errs, fmt.Errorf("wait for init: %w", err))
	}
	errs = append(errs, h.alive.Close())
	h.init, h.alive = nil, nil
	return errors.Join(errs...)
}

// Destroy ends the host and removes its disk and cgroups. A destroyed host
// stays destroyed.
func (h *Host) Destroy() error {
	err := h.Crash()
	h.lab.forget(h.name)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// A cgroup stays busy until the last of its dead is gone.
	gone := Poll(ctx, 20*time.Millisecond, func() error { return removeCgroups(h.slice()) })
	return errors.Join(err, gone, os.RemoveAll(h.Disk()))
}

// PIDs are the processes of the host but its init, as the machine numbers them.
func (h *Host) PIDs() ([]int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.init == nil {
		return nil, fmt.Errorf("host %s is down", h.name)
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.init.Process.Pid))
	if err != nil {
		return nil, fmt.Errorf("read the host's pid namespace: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == h.init.Process.Pid {
			continue
		}
		if ns, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/pid")); err == nil && ns == own {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
