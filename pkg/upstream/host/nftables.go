package host

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftGetGeneration is NFT_MSG_GETGEN of the nf_tables subsystem (linux/netfilter/nf_tables.h, nfnetlink.h).
const nftGetGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN

// nftGeneration fails when the kernel has no nf_tables. Sending the message also makes a kernel load the module.
func nftGeneration() (err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(nftGetGeneration), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return fmt.Errorf("ask for the nf_tables generation: %w", err)
	}
	return nil
}
