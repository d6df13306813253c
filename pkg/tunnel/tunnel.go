// Package tunnel lets a server open connections to a node that it cannot reach: the agent dials the server, and over
// that one connection, turned around, the server asks for others.
//
// It is HTTP/2 with the roles exchanged, and adds nothing to it: after an upgrade of the agent's request, the server is
// the client, each connection is a CONNECT stream, and flow control, multiplexing and liveness are HTTP/2's. The agent
// decides what may be reached (its own addresses and its pods).
//
// It authenticates nobody: [Server.Serve] is called for an agent whose certificate was verified, and the [Client]
// verifies the server's by the TLS configuration that it is given.
//
// Both ends are components. They stop when their contexts end: every session is closed and waited for.
package tunnel

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// Protocol is what the agent's request upgrades to.
const Protocol = "knarr-tunnel/1"

// join copies between two connections until either ends, and closes both.
func join(ctx context.Context, a, b io.ReadWriteCloser) {
	end := func() {
		_ = a.Close() // how a connection ended is for its two ends to report
		_ = b.Close()
	}
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var both sync.WaitGroup
	for _, pair := range [][2]io.ReadWriteCloser{{a, b}, {b, a}} {
		both.Go(func() {
			defer end()
			_, _ = io.Copy(pair[0], pair[1])
		})
	}
	both.Wait()
}

// watchedConn tells when it has been closed, by whichever end: HTTP/2 closes a connection it cannot use any more.
type watchedConn struct {
	net.Conn
	once  sync.Once
	ended chan struct{}
}

func watch(conn net.Conn) *watchedConn { return &watchedConn{Conn: conn, ended: make(chan struct{})} }

func (c *watchedConn) Close() error {
	c.once.Do(func() { close(c.ended) })
	return c.Conn.Close()
}

// http2Alone is HTTP/2 from the first byte: both ends know, and TLS is beneath.
func http2Alone() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}
