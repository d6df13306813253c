package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// settle is how long nothing must change for what is there to count: a DHCP client takes the old address away before it
// sets the new one, or after.
const settle = time.Second

// unsettled is how long a host that never comes to rest is left alone: pods come and go, and who holds a virtual address
// renews it each second.
const unsettled = 5 * settle

// Group is what of a host's network can be watched; groups combine with |.
type Group uint32

// The groups (rtnetlink(7)).
const (
	Links Group = 1 << (unix.RTNLGRP_LINK - 1)
	Addrs Group = 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1)
)

// Watch calls changed when the kernel says that something in the groups has changed, without saying what, until ctx ends.
// The links of pods and their addresses are among it.
func Watch(ctx context.Context, groups Group, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: uint32(groups)})
	if err != nil {
		return fmt.Errorf("watch this host's network: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }) // fails on a closed one only
	defer func() {
		stop()
		_ = conn.Close() // nothing was written
	}()
	for {
		_, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS): // the latter: more changes at once than we could read
			changed()
		default:
			return fmt.Errorf("watch this host's network: %w", err)
		}
	}
}

// Settled calls look once and then each time when what watch reports has come to rest, or does not come to rest for too
// long, until ctx ends, or look or watch fails.
func Settled(ctx context.Context, watch func(ctx context.Context, changed func()) error, look func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- watch(ctx, func() {
			select {
			case events <- struct{}{}:
			default: // one is waiting to be looked at
			}
		})
	}()
	timer := time.NewTimer(settle) // something may have changed since the start
	defer timer.Stop()
	latest := time.Now().Add(unsettled) // zero while nothing has changed
	for {
		select {
		case err := <-ended: // as it does with ctx
			cancel()
			return err
		case <-events:
			if latest.IsZero() {
				latest = time.Now().Add(unsettled)
			}
			timer.Reset(min(settle, time.Until(latest)))
		case <-timer.C:
			latest = time.Time{}
			if err := look(); err != nil {
				cancel()
				<-ended // of no interest beside err
				return err
			}
		}
	}
}
