package vip

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience is for a busy machine.
const patience = 20 * time.Second

// family is a LAN with an address that nobody on it has, and what tells others of that address's place.
type family struct {
	network  netip.Prefix
	virtual  netip.Addr
	listens  string // a network of package net
	protocol uint16
	frame    func(*machine) []byte
}

func families() map[string]family {
	four, six := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8::100")
	return map[string]family{
		"IPv4": {netip.MustParsePrefix("192.0.2.0/24"), four, "tcp4", unix.ETH_P_ARP, func(m *machine) []byte { return gratuitousARP(m.mac, four) }},
		"IPv6": {netip.MustParsePrefix("2001:db8::/64"), six, "tcp6", unix.ETH_P_IPV6, func(m *machine) []byte { return advertisement(m.mac, six) }},
	}
}

// holder is the component on a machine.
type holder struct {
	*machine
	*Holder
	cancel context.CancelFunc
	done   chan error
}

// hold has a machine hold the address until its end, or the test's.
func (m *machine) hold(own, virtual netip.Addr, lifetime time.Duration) *holder {
	m.t.Helper()
	h := &holder{machine: m, done: make(chan error, 1),
		Holder: New(Config{Address: virtual, Neighbour: own, Lifetime: lifetime}, slog.New(slog.DiscardHandler))}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	ready := make(chan struct{})
	go func() { h.done <- m.in(func() error { return h.Run(ctx, func() { close(ready) }) }) }()
	m.t.Cleanup(h.cancel)
	select {
	case <-ready:
	case err := <-h.done:
		m.t.Fatalf("%s cannot hold %s: %v", m.name, virtual, err)
	}
	return h
}

// end ends the component in order.
func (h *holder) end() {
	h.t.Helper()
	h.cancel()
	must(h.t, <-h.done)
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !is(); <-tick.C {
		if time.Since(began) > patience {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestTheAddressMoves has the address go from one machine to another: in order, and when the first one is cut off, while it
// has the address still. Neighbours know the new place at once.
func TestTheAddressMoves(t *testing.T) {
	const lifetime = 2 * time.Second
	for name, f := range families() {
		t.Run(name, func(t *testing.T) {
			lan := newLAN(t, f.network, "one", "two", "client")
			one, two, client := lan[0], lan[1], lan[2]
			for _, m := range []*machine{one, two} {
				m.serve(f.listens)
			}
			first, second := f.network.Addr().Next(), f.network.Addr().Next().Next()
			heard := client.listen(f.protocol)
			there := func(m *machine) {
				t.Helper()
				heard(f.frame(m))
				if got, err := client.ask(f.virtual); err != nil || got != m.name {
					t.Fatalf("%s answers, %v; want %s", got, err, m.name)
				}
				if mac := client.neighbour(f.virtual); mac.String() != m.mac.String() {
					t.Errorf("the client has %s for the address, want %s", mac, m.mac)
				}
			}

			h := one.hold(first, f.virtual, lifetime)
			there(one)
			alone(t, one.has(f.virtual), lifetime)
			// Renewed, it stays for longer than it lives.
			over := time.Now().Add(lifetime + lifetime/2)
			until(t, "the end of a lifetime and a half", func() bool {
				if one.has(f.virtual) == nil {
					t.Fatal("the address has ended")
				}
				return time.Now().After(over)
			})

			h.end()
			if one.has(f.virtual) != nil {
				t.Error("who has ended has the address still")
			}
			h = two.hold(second, f.virtual, lifetime)
			there(two)

			must(t, netlink.LinkSetDown(two.cable))
			one.hold(first, f.virtual, lifetime)
			there(one)
			h.end()
		})
	}
}

// alone checks that an address is nobody's prefix, is usable at once, is chosen for no connection, and ends by itself.
func alone(t *testing.T, a *netlink.Addr, lifetime time.Duration) {
	t.Helper()
	ones, bits := a.Mask.Size()
	if ones != bits || a.ValidLft > int(lifetime/time.Second) || a.ValidLft == 0 || a.PreferedLft != 0 {
		t.Errorf("the address is %+v", a)
	}
	if a.Flags&unix.IFA_F_DEPRECATED == 0 || a.Flags&unix.IFA_F_TENTATIVE != 0 {
		t.Errorf("the address has the flags %#x", a.Flags)
	}
}

// TestNobodyRenews is what is left of a server that was killed: the kernel takes the address away.
func TestNobodyRenews(t *testing.T) {
	for name, f := range families() {
		t.Run(name, func(t *testing.T) {
			m := newLAN(t, f.network, "one")[0]
			const lifetime = time.Second
			began := time.Now()
			must(t, m.in(func() error {
				link, err := find(f.network.Addr().Next())
				if err != nil {
					return err
				}
				return netlink.AddrReplace(link, New(Config{Address: f.virtual, Lifetime: lifetime}, nil).addr())
			}))
			if m.has(f.virtual) == nil {
				t.Fatal("the machine has no virtual address")
			}
			until(t, "the end of the address", func() bool { return m.has(f.virtual) == nil })
			if took := time.Since(began); took > lifetime+2*time.Second {
				t.Errorf("it was there for %v", took)
			}
		})
	}
}

// TestNoSuchNeighbour names what is missing.
func TestNoSuchNeighbour(t *testing.T) {
	m := newLAN(t, netip.MustParsePrefix("2001:db8::/64"), "one")[0]
	err := m.in(func() error {
		c := Config{Address: netip.MustParseAddr("2001:db8::100"), Neighbour: netip.MustParseAddr("2001:db8::77"), Lifetime: time.Second}
		return New(c, slog.New(slog.DiscardHandler)).Run(t.Context(), func() { t.Error("it is ready") })
	})
	if err == nil || m.has(netip.MustParseAddr("2001:db8::100")) != nil {
		t.Errorf("got %v", err)
	}
}
