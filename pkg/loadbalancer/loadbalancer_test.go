package loadbalancer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/knarr-io/knarr/tests/bed"
)

// backend is a server that says its name, and then what it is told.
type backend struct {
	net.Listener
	conns sync.WaitGroup
}

func serve(t *testing.T, address, name string) *backend {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{Listener: l}
	b.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // as TestNoDescriptorLeft has it
			}
			b.conns.Go(func() {
				defer conn.Close()
				fmt.Fprintln(conn, name)
				for s := bufio.NewScanner(conn); s.Scan(); {
					fmt.Fprintln(conn, s.Text())
				}
			})
		}
	})
	t.Cleanup(func() { l.Close() })
	return b
}

// running is a balancer that runs until the test ends.
func running(t *testing.T, c Config) (*Balancer, string) {
	t.Helper()
	return logging(t, c, slog.DiscardHandler)
}

// logging is running with a log.
func logging(t *testing.T, c Config, log slog.Handler) (*Balancer, string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	c.Listen = netip.MustParseAddrPort(address)
	b := New(c, slog.New(log))
	ctx, cancel := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- b.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return b, address
}

// client is a connection through the balancer, and who is at its end.
func client(t *testing.T, address string) (*bufio.Reader, net.Conn, string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := bufio.NewReader(conn)
	name, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("read the server's name: %v", err)
	}
	return r, conn, name[:len(name)-1]
}

func TestConnectionsStayWithOneServer(t *testing.T) {
	one, two := serve(t, "127.0.0.1:0", "one"), serve(t, "127.0.0.1:0", "two")
	_, address := running(t, Config{Default: one.Addr().String(), Servers: []string{one.Addr().String(), two.Addr().String()}})
	_, _, first := client(t, address)
	for range 10 {
		if _, _, name := client(t, address); name != first {
			t.Fatalf("first %s, then %s", first, name)
		}
	}
}

func TestAnotherServerTakesOver(t *testing.T) {
	servers := map[string]*backend{"one": serve(t, "127.0.0.1:0", "one"), "two": serve(t, "127.0.0.1:0", "two")}
	addresses := []string{servers["one"].Addr().String(), servers["two"].Addr().String()}
	b, address := running(t, Config{Default: addresses[0], Servers: addresses})
	r, _, name := client(t, address)
	servers[name].Close() // new connections are refused; the open one does not notice
	b.Down(servers[name].Addr().String())
	if text, err := r.ReadString('\n'); err == nil {
		t.Errorf("a connection to the dead server goes on: %q", text)
	}
	began := time.Now()
	if _, _, next := client(t, address); next == name {
		t.Errorf("%s answers although it is dead", next)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the other server answered after %v", took)
	}
}

// TestRequestsFail has a server take connections and do nothing with what it is asked for.
func TestRequestsFail(t *testing.T) {
	servers := map[string]*backend{"one": serve(t, "127.0.0.1:0", "one"), "two": serve(t, "127.0.0.1:0", "two")}
	b, address := running(t, Config{Default: servers["one"].Addr().String(), Servers: []string{servers["one"].Addr().String(), servers["two"].Addr().String()}})
	r, _, first := client(t, address)
	b.GiveUp()
	if line, err := r.ReadString('\n'); err == nil {
		t.Errorf("the client is still there and got %q", line)
	}
	r, conn, second := client(t, address)
	if second == first {
		t.Errorf("the client is back at %s", first)
	}
	b.GiveUp() // so soon that it cannot be the server's fault
	fmt.Fprintln(conn, "still there")
	if text, err := r.ReadString('\n'); err != nil || text != "still there\n" {
		t.Errorf("got %q, %v", text, err)
	}
	b.Down(servers[first].Addr().String())
	b.mu.Lock()
	b.givenUp = time.Time{} // long ago
	b.mu.Unlock()
	b.GiveUp() // when there is no other
	fmt.Fprintln(conn, "again")
	if text, err := r.ReadString('\n'); err != nil || text != "again\n" {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestRequestsFailEverywhere has it that no other server helps.
func TestRequestsFailEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Servers: []string{"192.0.2.1:6443", "192.0.2.2:6443"}}, slog.New(slog.DiscardHandler))
		begin := time.Now()
		var at []time.Duration
		last := b.givenUp
		ask := func(during time.Duration) {
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(10 * time.Second) {
				if b.GiveUp(); b.givenUp != last {
					last = b.givenUp
					at = append(at, time.Since(begin))
				}
			}
		}
		ask(8 * time.Minute)
		time.Sleep(time.Hour) // in which all is well
		ask(time.Minute)
		want := []time.Duration{0, 30 * time.Second, 90 * time.Second, 210 * time.Second, 450 * time.Second, 68 * time.Minute, 68*time.Minute + 30*time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("clients were cut off at %v, want %v", at, want)
		}
	})
}

func TestTheOnlyServerIsNotCutOff(t *testing.T) {
	one := serve(t, "127.0.0.1:0", "one")
	b, address := running(t, Config{Default: one.Addr().String(), Servers: []string{one.Addr().String()}})
	r, conn, _ := client(t, address)
	b.Down(one.Addr().String())
	b.GiveUp()
	fmt.Fprintln(conn, "still there")
	if text, err := r.ReadString('\n'); err != nil || text != "still there\n" {
		t.Errorf("got %q, %v", text, err)
	}
}

// A server that is there again at another address ends what hangs at the former one; one that is there again does not.
// TestWhatIsLostIsGivenUp has what a client sends never reach the server, which lives: the client is not left to a
// connection that is tried less and less often.
func TestWhatIsLostIsGivenUp(t *testing.T) {
	l := bed.Listen(t)
	_, address := running(t, Config{Default: l.Addr().String(), Servers: []string{l.Addr().String()}})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	bed.Deaf(t, server, true)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client's connection is kept: %v", err)
	}
}

func TestAServerMoves(t *testing.T) {
	old, fresh := serve(t, "127.0.0.1:0", "old"), serve(t, "127.0.0.1:0", "fresh")
	b, address := running(t, Config{Default: fresh.Addr().String(), Servers: []string{old.Addr().String()}})
	r, conn, name := client(t, address)
	if name != "old" {
		t.Fatalf("%s answers", name)
	}
	b.Down(old.Addr().String())
	b.Up(old.Addr().String())
	b.Up(fresh.Addr().String())
	fmt.Fprintln(conn, "still there")
	if text, err := r.ReadString('\n'); err != nil || text != "still there\n" {
		t.Errorf("got %q, %v", text, err)
	}
	b.Down(old.Addr().String())
	b.Up(fresh.Addr().String())
	if text, err := r.ReadString('\n'); err == nil {
		t.Errorf("a connection to the dead server goes on: %q", text)
	}
	old.Close()
	if _, _, name := client(t, address); name != "fresh" {
		t.Errorf("%s answers", name)
	}
}

// TestClientsWaitForAServer connects while there is none, which comes back meanwhile.
func TestClientsWaitForAServer(t *testing.T) {
	one := serve(t, "127.0.0.1:0", "one")
	where := one.Addr().String()
	one.Close()
	one.conns.Wait()
	_, address := running(t, Config{Default: where})
	came := time.AfterFunc(300*time.Millisecond, func() {
		if l, err := net.Listen("tcp", where); err == nil {
			conn, err := l.Accept()
			if err == nil {
				fmt.Fprintln(conn, "back")
			}
			l.Close()
		}
	})
	defer came.Stop()
	if _, _, name := client(t, address); name != "back" {
		t.Errorf("got %q", name)
	}
}

func TestTheNamedServerStandsIn(t *testing.T) {
	named := serve(t, "127.0.0.1:0", "named")
	dead := serve(t, "127.0.0.1:0", "dead")
	dead.Close()
	_, address := running(t, Config{Default: named.Addr().String(), Servers: []string{dead.Addr().String()}})
	if _, _, name := client(t, address); name != "named" {
		t.Errorf("got %q", name)
	}
}

func TestServers(t *testing.T) {
	b := New(Config{Servers: []string{"a:1"}}, slog.New(slog.DiscardHandler))
	_, changed := b.Servers()
	for _, c := range []struct {
		set    []string
		change bool
	}{{nil, false}, {[]string{"a:1"}, false}, {[]string{"b:1", "a:1", "b:1"}, true}, {[]string{"a:1", "b:1"}, false}} {
		if got := b.SetServers(c.set); got != c.change {
			t.Errorf("SetServers(%v) = %t", c.set, got)
		}
	}
	select {
	case <-changed:
	default:
		t.Error("the change is not told")
	}
	if got, _ := b.Servers(); fmt.Sprint(got) != "[a:1 b:1]" {
		t.Errorf("servers are %v", got)
	}
}

// TestNoDescriptorLeft takes all but one from the process, for the client: it waits until there are more again.
func TestNoDescriptorLeft(t *testing.T) {
	one := serve(t, "127.0.0.1:0", "one")
	var journal bed.Journal
	_, address := logging(t, Config{Default: one.Addr().String()}, slog.NewTextHandler(&journal, nil))

	var old syscall.Rlimit
	lowest, err := syscall.Dup(0)
	err = errors.Join(err, syscall.Close(lowest), syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	if err != nil {
		t.Fatal(err)
	}
	limit := func(l syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
	}
	limit(syscall.Rlimit{Cur: uint64(lowest) + 1, Max: old.Max})
	defer limit(old)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	bed.Until(t, "a client that is not accepted", func() bool { return journal.Has("too many open files") })
	limit(old)
	if name, err := bufio.NewReader(conn).ReadString('\n'); name != "one\n" {
		t.Errorf("%q answers: %v", name, err)
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = New(Config{Listen: netip.MustParseAddrPort(l.Addr().String())}, slog.New(slog.DiscardHandler)).Run(t.Context(), func() {})
	if err == nil {
		t.Fatal("it runs on a port that is taken")
	}
}
