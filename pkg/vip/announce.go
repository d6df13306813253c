package vip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// announce tells the neighbours on a link that an address is here.
func announce(link netlink.Link, address netip.Addr) error {
	mac := link.Attrs().HardwareAddr
	if len(mac) != 6 {
		return nil // a link without neighbours, such as a tunnel
	}
	frame, protocol := gratuitousARP, uint16(unix.ETH_P_ARP)
	if address.Is6() {
		frame, protocol = advertisement, unix.ETH_P_IPV6
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: link.Attrs().Index}
	if err := unix.Sendto(fd, frame(mac, address), 0, to); err != nil {
		return fmt.Errorf("announce %s on %s: %w", address, link.Attrs().Name, err)
	}
	return nil
}

// gratuitousARP is a request for an address by whoever has it (RFC 5227, section 3), in an Ethernet frame.
func gratuitousARP(mac net.HardwareAddr, address netip.Addr) []byte {
	const ethernet, ipv4, request = 1, unix.ETH_P_IP, 1
	var b bytes.Buffer
	b.Write(bytes.Repeat([]byte{0xff}, 6)) // to all
	b.Write(mac)
	ip := address.As4()
	for _, v := range []any{uint16(unix.ETH_P_ARP), uint16(ethernet), uint16(ipv4), uint8(6), uint8(4), uint16(request)} {
		_ = binary.Write(&b, binary.BigEndian, v) // a buffer takes everything
	}
	b.Write(mac)
	b.Write(ip[:])
	b.Write(make([]byte, 6))
	b.Write(ip[:])
	return b.Bytes()
}

// advertisement is an unsolicited neighbour advertisement (RFC 4861, section 4.4), in an Ethernet frame to all nodes.
func advertisement(mac net.HardwareAddr, address netip.Addr) []byte {
	const override, option, icmp, limit = 0x20, 2, unix.IPPROTO_ICMPV6, 255
	from, all := address.As16(), netip.MustParseAddr("ff02::1").As16()
	var body bytes.Buffer
	body.Write([]byte{136, 0, 0, 0, override, 0, 0, 0}) // type, code, checksum, flags
	body.Write(from[:])
	body.Write([]byte{option, 1}) // this link's address, of one unit of eight bytes
	body.Write(mac)

	pseudo := append(append(from[:len(from):len(from)], all[:]...), 0, 0, 0, byte(body.Len()), 0, 0, 0, icmp)
	message := body.Bytes()
	binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))

	var b bytes.Buffer
	b.Write([]byte{0x33, 0x33, 0, 0, 0, 1})
	b.Write(mac)
	b.Write([]byte{unix.ETH_P_IPV6 >> 8, unix.ETH_P_IPV6 & 0xff, 6 << 4, 0, 0, 0, 0, byte(len(message)), icmp, limit})
	b.Write(from[:])
	b.Write(all[:])
	b.Write(message)
	return b.Bytes()
}

// checksum is the Internet's (RFC 1071) of an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
