package vip

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

func TestGratuitousARP(t *testing.T) {
	const want = "ffffffffffff" + "020000000001" + "0806" + // to all, from, ARP
		"0001" + "0800" + "06" + "04" + "0001" + // Ethernet, IPv4, a request
		"020000000001" + "c0000205" + "000000000000" + "c0000205"
	if got := hex.EncodeToString(gratuitousARP(mac, netip.MustParseAddr("192.0.2.5"))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAdvertisement(t *testing.T) {
	frame := advertisement(mac, netip.MustParseAddr("2001:db8::5"))
	if got, want := hex.EncodeToString(frame[:14]), "333300000001"+"020000000001"+"86dd"; got != want {
		t.Errorf("Ethernet: %s, want %s", got, want)
	}
	ip, message := frame[14:54], frame[54:]
	if ip[6] != unix.IPPROTO_ICMPV6 || ip[7] != 255 || int(binary.BigEndian.Uint16(ip[4:])) != len(message) {
		t.Errorf("IPv6: % x", ip)
	}
	if got, want := hex.EncodeToString(message[4:]), "20000000"+"20010db8000000000000000000000005"+"0201020000000001"; got != want {
		t.Errorf("advertisement: %s, want %s", got, want)
	}
	// Over all that is summed, with the sum itself, the checksum is none.
	pseudo := append(append([]byte{}, ip[8:40]...), 0, 0, 0, byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	if sum := checksum(append(pseudo, message...)); sum != 0 {
		t.Errorf("checksum: %#x is left", sum)
	}
}

// TestAddress has the kernel give the address up by itself, and nobody take it for the host's own.
func TestAddress(t *testing.T) {
	for text, flags := range map[string]int{"192.0.2.5": 0, "2001:db8::5": unix.IFA_F_NODAD} {
		a := New(Config{Address: netip.MustParseAddr(text), Lifetime: 3 * time.Second}, nil).addr()
		ones, bits := a.Mask.Size()
		if a.ValidLft != 3 || a.PreferedLft != 0 || a.Flags != flags || ones != bits {
			t.Errorf("%s: %+v", text, a)
		}
	}
}
