package process

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Listener is a socket that waits for connections (tcp) or datagrams (udp) in
// the network namespace of the table's own process.
type Listener struct {
	Network string // "tcp", "tcp6", "udp", "udp6"
	Addr    netip.AddrPort
	Inode   string
	// Owner holds the socket; its PID is 0 when nobody visible does (a kernel
	// socket such as vxlan's, or another pid namespace).
	Owner Process
}

// socketStates names the hexadecimal state of proc(5)'s net/tcp and net/udp in
// which a socket holds its port for newcomers.
func socketStates() map[string]string {
	return map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
}

// Listeners returns the sockets that hold a port, with the processes behind them.
func (t Table) Listeners() ([]Listener, error) {
	var found []Listener
	for _, network := range []string{"tcp", "tcp6", "udp", "udp6"} {
		data, err := os.ReadFile(t.path("net", network))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list %s sockets: %w", network, err)
		}
		listeners, err := parseSockets(network, string(data))
		if err != nil {
			return nil, fmt.Errorf("list %s sockets: %w", network, err)
		}
		found = append(found, listeners...)
	}
	owners, err := t.socketOwners()
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i].Owner = owners[found[i].Inode]
	}
	return found, nil
}

func parseSockets(network, data string) ([]Listener, error) {
	var found []Listener
	for _, line := range strings.Split(data, "\n")[1:] {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[3] != socketStates()[network] {
			continue
		}
		addr, err := parseAddr(fields[1])
		if err != nil {
			return nil, err
		}
		found = append(found, Listener{Network: network, Addr: addr, Inode: fields[9]})
	}
	return found, nil
}

// parseAddr reads "0100007F:1F90": the address as 32-bit words in host order
// (little endian on every architecture knarr is built for), the port in hex.
func parseAddr(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if !ok || err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("unexpected socket address %q", s)
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	addr, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("unexpected socket address %q", s)
	}
	return netip.AddrPortFrom(addr, uint16(number)), nil
}

// socketOwners maps a socket's inode to the process that has it open. Processes
// of others, whose descriptors cannot be read, are left out.
func (t Table) socketOwners() (map[string]Process, error) {
	all, err := t.List()
	if err != nil {
		return nil, err
	}
	owners := map[string]Process{}
	for _, p := range all {
		dir := t.path(strconv.Itoa(p.PID), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // ended meanwhile, or not ours to look into
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + "/" + fd.Name())
			if err != nil {
				continue
			}
			if inode, ok := strings.CutPrefix(link, "socket:["); ok {
				owners[strings.TrimSuffix(inode, "]")] = p
			}
		}
	}
	return owners, nil
}
