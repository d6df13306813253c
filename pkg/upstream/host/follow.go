package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// Follower notices that the addresses under which a node registered are not the host's any more, and ends with a
// [lifecycle.Restart]: certificates, endpoints, the kubelet, kube-proxy (which ends the process itself when it finds its
// node's addresses changed, k8s.io/kubernetes/pkg/proxy/node.go:207) and the pod network all take them once. Pods run on.
//
// It does not poll, and does nothing while the host has no address to go on with.
type Follower struct {
	have []netip.Addr
	pick func([]netip.Addr) []netip.Addr
	log  *slog.Logger

	find    func() ([]netip.Addr, error)
	present func() ([]netip.Addr, error)
	watch   func(ctx context.Context, changed func()) error
}

// Follow makes the component. have are the node's addresses; pick chooses a node's from the host's.
func Follow(have []netip.Addr, pick func([]netip.Addr) []netip.Addr, log *slog.Logger) *Follower {
	return &Follower{have: have, pick: pick, log: log, find: Addresses, present: present, watch: func(ctx context.Context, changed func()) error { return Watch(ctx, Addrs, changed) }}
}

// Name is "host-addresses".
func (*Follower) Name() string { return "host-addresses" }

// Run watches until ctx ends or the addresses have changed.
func (f *Follower) Run(ctx context.Context, ready func()) error {
	ready()
	return Settled(ctx, f.watch, func() error {
		next, err := f.moved()
		if err != nil {
			f.log.Warn("cannot see whether this host's addresses have changed", "error", err)
		}
		if next == nil {
			return nil
		}
		return &lifecycle.Restart{Reason: fmt.Sprintf("this host's address was %s and is %s", joined(f.have), joined(next))}
	})
}

// moved are the addresses to go on with; nil while those that the node has are right, or there are none to go on with.
// An address that comes beside another is no reason to change, one of a family that the node lacks is.
func (f *Follower) moved() ([]netip.Addr, error) {
	now, err := f.find()
	if errors.Is(err, ErrNoAddress) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	there, err := f.present()
	if err != nil {
		return nil, err
	}
	next := f.pick(now)
	gone := slices.ContainsFunc(f.have, func(a netip.Addr) bool { return !slices.Contains(there, a) })
	if gone && len(next) >= len(f.have) || len(next) > len(f.have) {
		return next, nil
	}
	return nil, nil
}

func joined(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

// present are all addresses of the host.
func present() ([]netip.Addr, error) {
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list this host's addresses: %w", err)
	}
	var found []netip.Addr
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			found = append(found, ip.Unmap())
		}
	}
	return found, nil
}
