package flannel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/knarr-io/knarr/pkg/upstream/host"
)

// namespaces is where containerd keeps pods' network namespaces, and podLink what the runtime calls a pod's link.
const (
	namespaces = "/var/run/netns/cni-*"
	podLink    = "eth0"
)

// follower keeps the MTU of the pod network at that of the interface between nodes, less what the backend adds to each
// packet: a tunnel or a cloud's network may change it while pods run. Flannel takes it once.
type follower struct {
	iface    string
	overhead int // bytes
	write    func(mtu int) error
	log      *slog.Logger
	mtu      int // as was last found, 0 at first
}

func newFollower(iface string, overhead int, write func(mtu int) error, log *slog.Logger) *follower {
	return &follower{iface: iface, overhead: overhead, write: write, log: log}
}

// overhead is what the backend adds to a packet at most, in bytes. vxlan counts IPv4's headers alone (pkg/backend/vxlan/
// vxlan_network.go:47), while the kernel lets its link of the longer IPv6 have no more than fits.
func (c *Component) overhead(device *backend.ExternalInterface, mtu int) int {
	bytes := device.Iface.MTU - mtu
	if c.config.Backend == vxlanBackend && device.IfaceV6Addr != nil {
		bytes += ipv6.HeaderLen - ipv4.HeaderLen
	}
	return bytes
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) error {
	return host.Settled(ctx, func(ctx context.Context, changed func()) error { return host.Watch(ctx, host.Links, changed) }, f.look)
}

// look compares with what there is. An interface that is gone has no MTU to follow.
func (f *follower) look() error {
	link, err := netlink.LinkByName(f.iface)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at interface %s: %w", f.iface, err)
	}
	mtu := link.Attrs().MTU - f.overhead
	if mtu == f.mtu {
		return nil
	}
	if f.mtu != 0 {
		f.log.Info("the pod network's MTU follows that of its interface", "interface", f.iface, "mtu", mtu, "before", f.mtu)
	}
	f.mtu = mtu
	if err := f.write(mtu); err != nil {
		return err
	}
	if err := f.apply(mtu); err != nil {
		// A pod that has just ended; the others of it have been tried all the same.
		f.log.Warn("cannot set the MTU of all links of the pod network", "mtu", mtu, "error", err)
	}
	return nil
}

// apply sets the MTU of the backend's links, of the bridge, and of both ends of its pods' links.
func (f *follower) apply(mtu int) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	bridge := 0
	own := map[string]bool{Bridge: true}
	for _, l := range backendLinks() {
		own[l.name] = true
	}
	for _, l := range links {
		if l.Attrs().Name == Bridge {
			bridge = l.Attrs().Index
		}
	}
	var errs []error
	pods := map[int]bool{} // the ends on this side
	for _, l := range links {
		port := bridge != 0 && l.Attrs().MasterIndex == bridge
		if port {
			pods[l.Attrs().Index] = true
		}
		if port || own[l.Attrs().Name] {
			errs = append(errs, setMTU(netlink.LinkSetMTU, l, mtu))
		}
	}
	return errors.Join(append(errs, applyInPods(pods, mtu))...)
}

// applyInPods sets the MTU of the pods' ends of links.
func applyInPods(links map[int]bool, mtu int) error {
	if len(links) == 0 {
		return nil
	}
	files, err := filepath.Glob(namespaces)
	if err != nil {
		return fmt.Errorf("list the pods' network namespaces: %w", err)
	}
	var errs []error
	for _, file := range files {
		if err := applyInPod(file, links, mtu); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
		}
	}
	return errors.Join(errs...)
}

func applyInPod(file string, links map[int]bool, mtu int) (err error) {
	ns, err := netns.GetFromPath(file)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(podLink)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil // a pod that is being made, or that has gone
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", podLink, err)
	}
	if !links[link.Attrs().ParentIndex] {
		return nil // of another network
	}
	return setMTU(inside.LinkSetMTU, link, mtu)
}

// setMTU sets what differs.
func setMTU(set func(netlink.Link, int) error, link netlink.Link, mtu int) error {
	if link.Attrs().MTU == mtu {
		return nil
	}
	if err := set(link, mtu); err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", link.Attrs().Name, mtu, err)
	}
	return nil
}
