package datastore

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/test/bufconn"
)

// pipeBuffer is the capacity of one direction of an in-process connection. The apiserver opens one connection per
// resource, about a hundred, so this counts.
const pipeBuffer = 8 << 10

// pipeListener outlives the servers listening on it, so that Access can be handed out before the first Run.
type pipeListener struct {
	mu sync.Mutex
	l  *bufconn.Listener
}

func newPipeListener() *pipeListener { return &pipeListener{l: bufconn.Listen(pipeBuffer)} }

// listen returns a fresh listener when the last one was closed by its server.
func (p *pipeListener) listen() net.Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &pipeEnd{Listener: p.l, p: p}
}

func (p *pipeListener) DialContext(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	l := p.l
	p.mu.Unlock()
	return l.DialContext(ctx)
}

// pipeEnd replaces its pipeListener's inner listener when it is closed.
type pipeEnd struct {
	*bufconn.Listener
	p *pipeListener
}

func (e *pipeEnd) Close() error {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	if e.p.l == e.Listener {
		e.p.l = bufconn.Listen(pipeBuffer)
	}
	return e.Listener.Close()
}
