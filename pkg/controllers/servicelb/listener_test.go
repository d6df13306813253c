package servicelb

import (
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	corev1 "k8s.io/api/core/v1"
)

const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// row is a line of /proc/net/tcp as a little-endian kernel prints it.
func row(local, state, inode string) string {
	return fmt.Sprintf("   0: %s 00000000:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %s 1 0000000000000000 100 0 0 10 0\n", local, state, inode)
}

func TestHolders(t *testing.T) {
	proc := fstest.MapFS{
		"net/tcp": {Data: []byte(header +
			row("00000000:0050", "0A", "11") + // 0.0.0.0:80
			row("0100007F:0051", "0A", "12") + // 127.0.0.1:81
			row("010000C0:0052", "0A", "13") + // 192.0.0.1:82, ours
			row("020000C0:0053", "0A", "14") + // 192.0.0.2:83, not ours
			row("00000000:0054", "01", "15") + // :84, a connection
			row("00000000:0055", "0A", "16") + // :85, by this process
			row("00000000:0056", "0A", "0"))}, // :86, the kernel's
		"net/tcp6": {Data: []byte(header +
			row("00000000000000000000000000000000:0057", "0A", "17") + // [::]:87
			row("000000FD000000000000000001000000:0058", "0A", "18") + // [fd00::1]:88
			row("0000000000000000FFFF0000010000C0:0059", "0A", "19"))}, // ::ffff:192.0.0.1, :89
		"net/udp":       {Data: []byte(header + row("00000000:0035", "07", "20"))},
		"7/comm":        {Data: []byte("nginx\n")},
		"7/fd/3":        {Data: []byte("socket:[11]"), Mode: fs.ModeSymlink},
		"7/fd/4":        {Data: []byte("socket:[20]"), Mode: fs.ModeSymlink},
		"8/fd/9":        {Data: []byte("socket:[13]"), Mode: fs.ModeSymlink},
		"9/comm":        {Data: []byte("knarr\n")},
		"9/fd/9":        {Data: []byte("socket:[16]"), Mode: fs.ModeSymlink},
		"self/fd/9":     {Data: []byte("socket:[16]"), Mode: fs.ModeSymlink},
		"sys/net/thing": {},
	}
	l := listeners{proc: proc, self: 9, own: []netip.Addr{netip.MustParseAddr("192.0.0.1"), netip.MustParseAddr("fd00::1")}}
	ports := map[Port]bool{{corev1.ProtocolUDP, 53}: true, {corev1.ProtocolUDP, 80}: true, {corev1.ProtocolTCP, 53}: true}
	for n := int32(80); n < 95; n++ {
		ports[Port{corev1.ProtocolTCP, n}] = true
	}
	got, err := l.holders(ports)
	if err != nil {
		t.Fatal(err)
	}
	const unknown = "a program on the host"
	want := map[string]string{"TCP/80": "process nginx (pid 7)", "TCP/82": "process 8", "TCP/85": "knarr itself", "TCP/86": unknown,
		"TCP/87": unknown, "TCP/88": unknown, "TCP/89": unknown, "UDP/53": "process nginx (pid 7)"}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	for p, holder := range got {
		if want[p.String()] != holder {
			t.Errorf("%s is held by %q, want %q", p, holder, want[p.String()])
		}
	}
}

func TestHoldersOfNothing(t *testing.T) {
	got, err := listeners{proc: fstest.MapFS{"net/tcp": {Data: []byte(header)}}}.holders(map[Port]bool{{corev1.ProtocolTCP, 80}: true})
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestUnreadableSockets(t *testing.T) {
	_, err := listeners{proc: fstest.MapFS{"net/tcp": {Data: []byte(header + row("0000:0050", "0A", "1"))}}}.holders(nil)
	if err == nil || !strings.Contains(err.Error(), `net/tcp: "0000:0050" is not a socket address`) {
		t.Errorf("got %v", err)
	}
}
