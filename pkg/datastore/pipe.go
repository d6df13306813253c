package datastore

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is the most bytes under way in one direction of an in-process connection.
const pipeBuffer = 32 << 10

// pipeBuffers has the buffers that no connection has bytes in. The apiserver makes about a hundred connections, nearly
// all of them quiet nearly always: a connection has a buffer only while there is something in it.
type pipeBuffers struct{ pool sync.Pool }

func (p *pipeBuffers) get() []byte {
	if b, ok := p.pool.Get().(*[pipeBuffer]byte); ok {
		return b[:]
	}
	return make([]byte, pipeBuffer)
}

func (p *pipeBuffers) put(b []byte) { p.pool.Put((*[pipeBuffer]byte)(b)) }

// half is one direction of a connection.
type half struct {
	buffers *pipeBuffers

	mu      sync.Mutex
	changed sync.Cond
	buf     []byte // nil when empty
	r, n    int    // where the unread bytes begin, and how many they are; they may wrap around
	ended   bool   // no more writes
	gone    bool   // no more reads
	readBy  time.Time
	writeBy time.Time
	readAt  *time.Timer
	writeAt *time.Timer
}

func newHalf(buffers *pipeBuffers) *half {
	h := &half{buffers: buffers}
	h.changed.L = &h.mu
	return h
}

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.gone:
			return 0, io.ErrClosedPipe
		case expired(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case h.n > 0:
			return h.take(p), nil
		case h.ended:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		h.changed.Wait()
	}
}

func (h *half) take(p []byte) int {
	total := 0
	for h.n > 0 && total < len(p) {
		c := copy(p[total:], h.buf[h.r:min(h.r+h.n, len(h.buf))])
		h.r, h.n, total = (h.r+c)%len(h.buf), h.n-c, total+c
	}
	if h.n == 0 {
		h.buffers.put(h.buf)
		h.buf, h.r = nil, 0
	}
	h.changed.Broadcast()
	return total
}

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	total := 0
	for {
		switch {
		case h.ended || h.gone:
			return total, io.ErrClosedPipe
		case expired(h.writeBy):
			return total, os.ErrDeadlineExceeded
		case total == len(p):
			return total, nil
		case h.buf == nil:
			h.buf = h.buffers.get()
		}
		for h.n < len(h.buf) && total < len(p) {
			w := (h.r + h.n) % len(h.buf)
			end := len(h.buf)
			if w < h.r {
				end = h.r
			}
			c := copy(h.buf[w:end], p[total:])
			h.n, total = h.n+c, total+c
		}
		h.changed.Broadcast()
		if total < len(p) {
			h.changed.Wait()
		}
	}
}

// end is a close by the writing side: what was written can still be read.
func (h *half) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.changed.Broadcast()
}

// leave is a close by the reading side: nobody will read what is left.
func (h *half) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.buf != nil {
		h.buffers.put(h.buf)
		h.buf, h.r, h.n = nil, 0, 0
	}
	h.gone = true
	h.changed.Broadcast()
}

// setDeadline wakes who waits when the time has come.
func (h *half) setDeadline(deadline *time.Time, timer **time.Timer, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*deadline = t
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	if !t.IsZero() {
		*timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changed.Broadcast()
		})
	}
	h.changed.Broadcast()
}

// pipeConn is one end of a connection within the process.
type pipeConn struct{ in, out *half }

var _ net.Conn = (*pipeConn)(nil)

func (c *pipeConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *pipeConn) Close() error {
	c.out.end()
	c.in.leave()
	return c.SetDeadline(time.Time{})
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, &c.in.readAt, t)
	return nil
}

func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, &c.out.writeAt, t)
	return nil
}

func (*pipeConn) LocalAddr() net.Addr  { return pipeAddr{} }
func (*pipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "in-process" }

// pipeListener outlives the servers that listen on it, so that a way to dial can be handed out before the first Run.
type pipeListener struct {
	buffers pipeBuffers
	conns   chan net.Conn
}

func newPipeListener() *pipeListener { return &pipeListener{conns: make(chan net.Conn)} }

// DialContext waits for a server that accepts.
func (p *pipeListener) DialContext(ctx context.Context) (net.Conn, error) {
	a, b := newHalf(&p.buffers), newHalf(&p.buffers)
	select {
	case p.conns <- &pipeConn{in: a, out: b}:
		return &pipeConn{in: b, out: a}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listen returns a listener for one server.
func (p *pipeListener) listen() net.Listener { return &pipeEnd{p: p, done: make(chan struct{})} }

type pipeEnd struct {
	p    *pipeListener
	once sync.Once
	done chan struct{}
}

func (e *pipeEnd) Accept() (net.Conn, error) {
	select {
	case c := <-e.p.conns:
		return c, nil
	case <-e.done:
		return nil, net.ErrClosed
	}
}

func (e *pipeEnd) Close() error {
	e.once.Do(func() { close(e.done) })
	return nil
}

func (*pipeEnd) Addr() net.Addr { return pipeAddr{} }
