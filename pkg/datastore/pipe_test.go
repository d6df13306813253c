package datastore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// pair connects through a listener.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	p := newPipeListener()
	l := p.listen()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	client, err := p.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}

// TestPipeIsAConn runs the standard suite for connections.
func TestPipeIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := pair(t)
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func TestPipeCarriesEverythingInOrder(t *testing.T) {
	a, b := pair(t)
	data := make([]byte, 5<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(100_000))
			if _, err := a.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
		a.Close()
	})
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d of %d bytes, %v", len(got), len(data), err)
	}
	wg.Wait()
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("wrote to a connection whose other end is closed")
	}
}

func TestPipeHoldsNoBufferWhenQuiet(t *testing.T) {
	a, b := pair(t)
	if _, err := a.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*half{a.(*pipeConn).in, a.(*pipeConn).out} {
		if h.buf != nil {
			t.Error("a buffer is held though nothing is in it")
		}
	}
}

func TestPipeDialWaitsForAServer(t *testing.T) {
	p := newPipeListener()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.DialContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial without a server: %v", err)
	}
	first := p.listen()
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if _, err := first.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
	a, _ := pair(t)
	if err := a.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past the deadline: %v", err)
	}
}
