package servicelb

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// tables are the kernel's lists of sockets, with the state of those that wait for clients: TCP_LISTEN, and for datagrams
// TCP_CLOSE, which says "not connected" (include/net/tcp_states.h).
var tables = [...]struct {
	file     string
	protocol corev1.Protocol
	state    string
}{
	{"net/tcp", corev1.ProtocolTCP, "0A"},
	{"net/tcp6", corev1.ProtocolTCP, "0A"},
	{"net/udp", corev1.ProtocolUDP, "07"},
	{"net/udp6", corev1.ProtocolUDP, "07"},
}

// listeners finds who listens on ports of this host: on one of its addresses own, or on all. What listens on the
// loopback only is in nobody's way. A protocol that the kernel does not list is taken to be free.
type listeners struct {
	proc fs.FS // /proc
	self int   // this process
	own  []netip.Addr
}

// holders names who listens on each of the ports, for those on which somebody does.
func (l listeners) holders(ports map[Port]bool) (map[Port]string, error) {
	inodes := make(map[Port]string)
	for _, t := range tables {
		err := l.read(t.file, t.state, func(at netip.AddrPort, inode string) {
			p := Port{t.protocol, int32(at.Port())}
			if ports[p] && l.outside(at.Addr()) {
				inodes[p] = inode
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
			return nil, fmt.Errorf("read listening sockets: %w", err)
		}
	}
	if len(inodes) == 0 {
		return nil, nil
	}
	owners := l.owners(inodes)
	holders := make(map[Port]string)
	for p, inode := range inodes {
		holders[p] = "a program on the host"
		if owner := owners[inode]; owner != "" {
			holders[p] = owner
		}
	}
	return holders, nil
}

// outside tells whether a socket bound to ip takes connections for the host's addresses.
func (l listeners) outside(ip netip.Addr) bool {
	ip = ip.Unmap()
	if ip.IsUnspecified() {
		return true
	}
	for _, own := range l.own {
		if own == ip {
			return true
		}
	}
	return false
}

// read calls found for every socket in the given state.
func (l listeners) read(file, state string, found func(at netip.AddrPort, inode string)) error {
	f, err := l.proc.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan() // the header
	for lines.Scan() {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != state {
			continue
		}
		at, err := parseSocket(fields[1])
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		found(at, fields[9])
	}
	return lines.Err()
}

// parseSocket reads an address as the kernel prints it: in hexadecimal, 32 bits at a time in the machine's own order.
func parseSocket(text string) (netip.AddrPort, error) {
	host, number, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%q is not a socket address", text)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, _ := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(number, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not a socket address: %w", text, err)
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

// owners finds the processes that hold sockets. It looks through all open files of the host, so it is for the rare case
// that a port is taken. Processes that end meanwhile are passed over.
func (l listeners) owners(inodes map[Port]string) map[string]string {
	wanted := make(map[string]string, len(inodes)) // link text to inode
	for _, inode := range inodes {
		wanted["socket:["+inode+"]"] = inode
	}
	found := make(map[string]string)
	processes, err := fs.ReadDir(l.proc, ".")
	if err != nil {
		return found
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		files, err := fs.ReadDir(l.proc, path.Join(p.Name(), "fd"))
		if err != nil {
			continue
		}
		for _, f := range files {
			link, err := fs.ReadLink(l.proc, path.Join(p.Name(), "fd", f.Name()))
			if inode := wanted[link]; err == nil && inode != "" {
				found[inode] = l.process(pid)
			}
		}
	}
	return found
}

// process describes a process to a user.
func (l listeners) process(pid int) string {
	if pid == l.self {
		return "knarr itself"
	}
	comm, err := fs.ReadFile(l.proc, fmt.Sprintf("%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %s (pid %d)", strings.TrimSpace(string(comm)), pid)
}

// newListeners looks at this host.
func newListeners(own []netip.Addr) listeners {
	return listeners{proc: os.DirFS("/proc"), self: os.Getpid(), own: own}
}
