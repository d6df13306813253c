package vip

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/apart"
)

// TestMain runs all tests of this package in a network namespace of their own, which is the switch of a LAN.
func TestMain(m *testing.M) { os.Exit(apart.Run(m, unix.CLONE_NEWNET, nil)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a network namespace whose eth0 is on the LAN.
type machine struct {
	t     *testing.T
	name  string
	ns    netns.NsHandle
	mac   net.HardwareAddr
	cable netlink.Link // the switch's end
}

// in runs f in the machine's network.
func (m *machine) in(f func() error) error { return apart.InNetwork(m.ns, f) }

// newLAN makes machines whose n-th has the n-th address of a network.
func newLAN(t *testing.T, network netip.Prefix, names ...string) []*machine {
	t.Helper()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)) })
	must(t, netlink.LinkSetUp(bridge))
	var machines []*machine
	for _, name := range names {
		network = netip.PrefixFrom(network.Addr().Next(), network.Bits())
		machines = append(machines, plug(t, bridge, name, network))
	}
	return machines
}

// plug makes a machine with an address.
func plug(t *testing.T, bridge netlink.Link, name string, own netip.Prefix) *machine {
	t.Helper()
	ns, err := apart.NewNetwork()
	must(t, err)
	m := &machine{t: t, name: name, ns: ns}
	t.Cleanup(func() { must(t, m.ns.Close()) })
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "to-" + name, MasterIndex: bridge.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(m.ns)}
	must(t, netlink.LinkAdd(cable))
	t.Cleanup(func() { must(t, netlink.LinkDel(cable)) })
	must(t, netlink.LinkSetUp(cable))
	m.cable = cable
	must(t, m.in(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		m.mac = eth0.Attrs().HardwareAddr
		a := &netlink.Addr{IPNet: &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(own.Bits(), own.Addr().BitLen())}}
		if own.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		return errors.Join(netlink.AddrAdd(eth0, a), netlink.LinkSetUp(eth0))
	}))
	return m
}

// port is where a machine says its name.
const port = 6443

// serve answers with the machine's name until the test ends, at all addresses of a network, tcp4 or tcp6, that the machine
// has or gets. Package net would find out by itself what the host knows, and there is no loopback to find it out with.
func (m *machine) serve(network string) {
	m.t.Helper()
	var l net.Listener
	must(m.t, m.in(func() (err error) {
		l, err = net.Listen(network, ":"+strconv.Itoa(port))
		return err
	}))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, m.name) // the client may have gone
			_ = c.Close()
		}
	})
	m.t.Cleanup(func() {
		must(m.t, l.Close())
		wg.Wait()
	})
}

// ask is the name of the machine that answers at an address.
func (m *machine) ask(address netip.Addr) (name string, err error) {
	err = m.in(func() error {
		const soon = 2 * time.Second // one packet that is lost is sent again after one
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(address, port).String(), soon)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
			return err
		}
		b, err := io.ReadAll(c)
		name = string(b)
		return err
	})
	return name, err
}

// neighbour is the link address that the machine knows for an address.
func (m *machine) neighbour(address netip.Addr) (mac net.HardwareAddr) {
	m.t.Helper()
	must(m.t, m.in(func() error {
		known, err := netlink.NeighList(0, 0)
		for _, n := range known {
			if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == address {
				mac = n.HardwareAddr
			}
		}
		return err
	}))
	return mac
}

// has is the address as the machine's eth0 has it, nil if it does not.
func (m *machine) has(address netip.Addr) (found *netlink.Addr) {
	m.t.Helper()
	must(m.t, m.in(func() error {
		list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range list {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == address {
				found = &a
			}
		}
		return err
	}))
	return found
}

// listen returns a function that waits until the machine has received a frame.
func (m *machine) listen(protocol uint16) (until func(frame []byte)) {
	m.t.Helper()
	var fd int
	must(m.t, m.in(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol<<8|protocol>>8))
		return err
	}))
	m.t.Cleanup(func() { must(m.t, unix.Close(fd)) })
	wait := syscall.NsecToTimeval(int64(patience))
	must(m.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: wait.Sec}))
	return func(frame []byte) {
		m.t.Helper()
		b := make([]byte, 2048)
		for began := time.Now(); time.Since(began) < patience; {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err == nil && bytes.Equal(b[:n], frame) {
				return
			}
		}
		m.t.Fatalf("%s has not received % x", m.name, frame)
	}
}
