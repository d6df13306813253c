package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/bed"
)

// door is where a server is reached. It tells of the connections that it has taken.
type door struct {
	*net.TCPListener
	taken chan *net.TCPConn
}

func (d *door) Accept() (net.Conn, error) {
	conn, err := d.AcceptTCP()
	if err != nil {
		return nil, err
	}
	d.taken <- conn
	return conn, nil
}

func next(t *testing.T, taken chan *net.TCPConn, what string) *net.TCPConn {
	t.Helper()
	select {
	case conn := <-taken:
		return conn
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s", what)
		return nil
	}
}

// TestLostPacketsEndNothing has all packets of a tunnel be lost, for longer than it takes to notice a server's death.
func TestLostPacketsEndNothing(t *testing.T) {
	r := newRig(t)
	start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	conn, err := r.server.DialContext(t.Context(), "tcp", nodeAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	link := next(t, r.door.taken, "tunnel")
	bed.Deaf(t, link, true)
	for range 2 {
		next(t, r.door.taken, "question whether the server is alive")
	}
	bed.Deaf(t, link, false)
	if _, err := io.WriteString(conn, "still there"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("still there"))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, []byte("still there")) {
		t.Errorf("read %q, %v through the tunnel", got, err)
	}
	select {
	case <-r.downs:
		t.Error("the server was said to be dead")
	default:
	}
}

// TestADeadServerIsNoticed has the machine of a server be silent altogether.
func TestADeadServerIsNoticed(t *testing.T) {
	r := newRig(t)
	start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	bed.Deaf(t, r.door, true)
	bed.Deaf(t, next(t, r.door.taken, "tunnel"), true)
	wait(t, r.downs, "end of the tunnel")
}

// TestAttend is how long it takes to find out, to the millisecond.
func TestAttend(t *testing.T) {
	const lan = time.Millisecond
	for name, c := range map[string]struct {
		trip     time.Duration
		probes   func(n int) bool // whether the n-th is answered, the first after a second
		alive    bool
		want     time.Duration // until the server is dead; 0 for never
		question int           // asked in the first ten seconds
	}{
		"all is well":               {lan, func(int) bool { return true }, false, 0, 0},
		"one packet is lost":        {lan, func(n int) bool { return n != 3 }, true, 0, 1},
		"every other packet":        {lan, func(n int) bool { return n%2 == 0 }, true, 0, 5},
		"the server dies":           {lan, func(n int) bool { return n < 4 }, false, 3*time.Second + probeEvery + allowance + verdict + 2*lan, 1},
		"a long way":                {900 * time.Millisecond, func(int) bool { return true }, false, 0, 0},
		"a long way, and it dies":   {900 * time.Millisecond, func(n int) bool { return n < 4 }, false, 3*time.Second + 900*time.Millisecond + probeEvery + 2*longestTrip + verdict + longestTrip, 1},
		"only its old packets lost": {lan, func(n int) bool { return n < 4 }, true, 0, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				// The answer to the n-th probe came a trip after it.
				feel := func() (pulse, error) {
					heard := begin
					for n := 1; ; n++ {
						at := begin.Add(time.Duration(n)*probeEvery + c.trip)
						if at.After(time.Now()) {
							return pulse{time.Since(heard), c.trip}, nil
						}
						if c.probes(n) {
							heard = at
						}
					}
				}
				asked := 0
				answers := func(_ context.Context, within time.Duration) bool {
					asked++
					if !c.alive {
						time.Sleep(within)
					}
					return c.alive
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err := attend(ctx, feel, answers)
				if c.want == 0 && err != nil || c.want != 0 && (err == nil || time.Since(begin) != c.want) {
					t.Errorf("after %v: %v, want %v", time.Since(begin), err, c.want)
				}
				if asked != c.question {
					t.Errorf("it asked %d times, want %d", asked, c.question)
				}
			})
		})
	}
}

func TestAttendEndsWithTheConnection(t *testing.T) {
	if err := attend(t.Context(), func() (pulse, error) { return pulse{}, net.ErrClosed }, nil); err != nil {
		t.Errorf("the end of the connection is an error: %v", err)
	}
	want := os.NewSyscallError("getsockopt", unix.EINVAL)
	if err := attend(t.Context(), func() (pulse, error) { return pulse{}, want }, nil); !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestFeel(t *testing.T) {
	l := bed.Listen(t)
	go echo(l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tcp := conn.(*net.TCPConn)
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	heard := time.Now()
	p, err := feel(tcp)
	if err != nil || p.trip <= 0 || p.trip > 10*time.Second || p.silent > time.Since(heard)+10*time.Second {
		t.Errorf("%+v, %v", p, err)
	}
	for begin := time.Now(); p.silent < 50*time.Millisecond; {
		if p, err = feel(tcp); err != nil || time.Since(begin) > 20*time.Second {
			t.Fatalf("the silence does not grow: %+v, %v", p, err)
		}
	}
	conn.Close()
	if _, err := feel(tcp); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v of a closed connection", err)
	}
}

func TestAnswers(t *testing.T) {
	l := bed.Listen(t)
	address := l.Addr().String()
	if !answers(t.Context(), address, 20*time.Second) {
		t.Error("who listens does not answer")
	}
	bed.Deaf(t, l, true)
	if answers(t.Context(), address, 300*time.Millisecond) {
		t.Error("a deaf server answers")
	}
	l.Close()
	if begin := time.Now(); answers(t.Context(), address, time.Hour) || time.Since(begin) > 20*time.Second {
		t.Error("who is not there is waited for")
	}
}
