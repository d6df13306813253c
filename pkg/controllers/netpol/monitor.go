package netpol

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// monitor calls touched when anybody but own changes a table of ours, until ctx ends or the kernel tells no more. It
// costs nothing while nobody changes anything in nftables.
func monitor(ctx context.Context, own func() uint32, opened, touched func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }) // fails on a closed one only
	defer func() {
		stop()
		_ = conn.Close() // nothing was written
	}()
	opened()
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // more changes at once than we could read: any may have been to our tables
			touched()
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		}
		for _, m := range messages {
			if m.Header.PID != own() && concernsUs(m) {
				touched()
				break
			}
		}
	}
}

// concernsUs tells whether a change is to a table of ours: every message about an object names its table in the first
// kind of attribute. The one that ends a transaction has a number there.
func concernsUs(m netlink.Message) bool {
	const header = 4 // struct nfgenmsg
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < header {
		return false
	}
	d, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return false
	}
	for d.Next() {
		if d.Type() == unix.NFTA_TABLE_NAME {
			return d.String() == Table
		}
	}
	return false
}
