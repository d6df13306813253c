package netpol

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel is what was put into the kernel. Its methods are for one goroutine, but for port.
type kernel struct {
	bridge string // the link that pods hang on, empty when there is none
	conn   *netlink.Conn
	// port is the address of conn: the kernel tells whose a change is.
	port atomic.Uint32
	// applied is what the table has; nil when that is not known.
	applied *ruleset
	bridged *bridging
	// empty says that there are no tables of ours.
	empty bool
}

const (
	// socketBuffer holds a whole transaction: the kernel takes it in one piece. It is a limit, no memory.
	socketBuffer = 64 << 20
	// answerLimit bounds the wait for the kernel's answer to a transaction.
	answerLimit = 30 * time.Second
)

// apply makes the tables as rs and links say, in transactions that are effective as a whole or not at all.
func (k *kernel) apply(rs *ruleset, links []string) error {
	k.empty = false
	// The bridge first: a connection that is not seen from its beginning looks like one of the other direction.
	bridgeErr := k.applyBridge(links)
	b := &batch{family: unix.NFPROTO_INET, table: Table}
	if k.applied == nil {
		create(b, k.bridge, rs)
	} else {
		amend(b, k.applied, rs)
	}
	if err := k.send(b); err != nil {
		k.applied = nil
		return errors.Join(fmt.Errorf("write network policies to nftables: %w", err), bridgeErr)
	}
	k.applied = rs
	return bridgeErr
}

// forget makes the next apply write all anew.
func (k *kernel) forget() { k.applied, k.bridged = nil, nil }

// remove takes the tables away.
func (k *kernel) remove() error {
	if k.empty {
		return nil
	}
	k.forget()
	for _, family := range []byte{unix.NFPROTO_INET, unix.NFPROTO_BRIDGE} {
		b := &batch{family: family, table: Table}
		b.removeTable()
		if err := k.send(b); err != nil && !errors.Is(err, unix.ENOENT) && !unsupported(err) {
			return fmt.Errorf("remove the nftables table %s: %w", Table, err)
		}
	}
	k.empty = true
	return k.close()
}

// unsupported tells whether the kernel has no nftables, or not for the family.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

func (k *kernel) close() error {
	if k.conn == nil {
		return nil
	}
	err := k.conn.Close()
	k.conn = nil
	k.port.Store(0)
	return err
}

func (k *kernel) open() error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	k.conn = conn
	if err := conn.SetOption(netlink.ExtendedAcknowledge, true); err != nil {
		return fmt.Errorf("ask for reasons of errors: %w", err)
	}
	if err := errors.Join(conn.SetWriteBuffer(socketBuffer), conn.SetReadBuffer(1<<20)); err != nil {
		return fmt.Errorf("enlarge netlink buffers: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at netlink socket: %w", err)
	}
	var name unix.Sockaddr
	if e := raw.Control(func(fd uintptr) { name, err = unix.Getsockname(int(fd)) }); e != nil || err != nil {
		return fmt.Errorf("look at netlink socket: %w", errors.Join(e, err))
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		k.port.Store(nl.Pid)
	}
	return nil
}

// send commits a transaction. After an error nothing of it is effective and the socket is a new one, since answers to
// the rest of the messages may follow.
func (k *kernel) send(b *batch) (err error) {
	if b.err != nil || len(b.messages) == 0 {
		return b.err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.conn == nil {
		if err := k.open(); err != nil {
			return err
		}
	}
	// The kernel answers in the order of the messages, failures in any case and the last one since it is asked to.
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	sent, err := k.conn.SendMessages(enclose(b.messages))
	if err != nil {
		return err
	}
	last := sent[len(sent)-2].Header.Sequence
	if err := k.conn.SetReadDeadline(time.Now().Add(answerLimit)); err != nil {
		return fmt.Errorf("bound the wait for nftables: %w", err)
	}
	for {
		answers, err := k.conn.Receive()
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Type == netlink.Error && a.Header.Sequence == last {
				return nil
			}
		}
	}
}

// enclose puts the marks of a transaction around its messages.
func enclose(messages []netlink.Message) []netlink.Message {
	mark := func(t netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: t, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	all := append(make([]netlink.Message, 0, len(messages)+2), mark(unix.NFNL_MSG_BATCH_BEGIN))
	all = append(all, messages...)
	return append(all, mark(unix.NFNL_MSG_BATCH_END))
}
