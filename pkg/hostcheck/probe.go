package hostcheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// ProbeNames are the features that are tried out.
func ProbeNames() []string {
	return []string{"overlay", "veth", "bridge", "vxlan", "wireguard", "nftables"}
}

// probe is a check that tries a feature out.
func probe(name string, otherwise Level, action string) func(*checker) []Result {
	return func(c *checker) []Result {
		err := c.Probes[name]()
		switch {
		case err == nil:
			return ok("works")
		case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
			return warn("could not be tried: "+err.Error(), "run `knarr check-config` as root")
		default:
			return []Result{{Level: otherwise, Finding: err.Error(), Action: action}}
		}
	}
}

// systemProbes try features in namespaces that vanish with the thread.
func systemProbes(dataDir string) map[string]func() error {
	link := func(l netlink.Link) func() error {
		return func() error { return apart(unix.CLONE_NEWNET, func() error { return netlink.LinkAdd(l) }) }
	}
	attrs := func() netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = "knarr-probe"
		return a
	}
	return map[string]func() error{
		"veth":      link(&netlink.Veth{LinkAttrs: attrs(), PeerName: "knarr-peer"}),
		"bridge":    link(&netlink.Bridge{LinkAttrs: attrs()}),
		"vxlan":     link(&netlink.Vxlan{LinkAttrs: attrs(), VxlanId: 1, Port: 8472}),
		"wireguard": link(&netlink.GenericLink{LinkAttrs: attrs(), LinkType: "wireguard"}),
		"nftables":  func() error { return apart(unix.CLONE_NEWNET, addTable) },
		"overlay":   func() error { return apart(unix.CLONE_NEWNS, func() error { return mountOverlay(dataDir) }) },
	}
}

// apart runs f on a thread with namespaces of its own. The thread is never given
// back, so the runtime ends it, and the kernel removes the namespaces with all
// that f made in them.
func apart(namespaces int, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The runtime cannot end the first thread, so that must not be changed: held
			// here until the work is done, it is not the one that does it.
			defer runtime.UnlockOSThread()
			result <- apart(namespaces, f)
			return
		}
		if err := unix.Unshare(namespaces); err != nil {
			result <- fmt.Errorf("make a namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

func addTable() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "knarr-probe"})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add an nftables table: %w", err)
	}
	return nil
}

// mountOverlay mounts an overlay whose upper directory is where containerd's will
// be: whether that works depends on the file system there.
func mountOverlay(dataDir string) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	base, remove, err := atomicfile.Scratch(nearest(dataDir), ".knarr-probe-")
	if err != nil {
		return fmt.Errorf("write to the data directory: %w", err)
	}
	defer func() { err = errors.Join(err, remove()) }()
	for _, dir := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			return fmt.Errorf("write to the data directory: %w", err)
		}
	}
	merged := filepath.Join(base, "merged")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s",
		filepath.Join(base, "lower"), filepath.Join(base, "upper"), filepath.Join(base, "work"))
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay: %w", err)
	}
	if err := unix.Unmount(merged, 0); err != nil {
		return fmt.Errorf("unmount the overlay: %w", err)
	}
	return nil
}

// nearest is path, or the nearest directory above it that exists.
func nearest(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
		above := filepath.Dir(path)
		if above == path {
			return path
		}
		path = above
	}
}
