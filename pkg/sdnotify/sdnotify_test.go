package sdnotify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestParse(t *testing.T) {
	const pid = 42
	tests := []struct {
		name         string
		socket       string
		usec, owner  string
		want         Notifier
		wantProblems string // parts of the error
	}{
		{"no systemd", "", "", "", Notifier{}, ""},
		{"watchdog without a socket", "", "1000000", "", Notifier{}, ""},
		{"path", "/run/systemd/notify", "", "", Notifier{socket: "/run/systemd/notify"}, ""},
		{"abstract", "@notify", "", "", Notifier{socket: "@notify"}, ""},
		{"watchdog", "/s", "30000000", "42", Notifier{"/s", 30 * time.Second}, ""},
		{"watchdog for anyone", "/s", "500000", "", Notifier{"/s", 500 * time.Millisecond}, ""},
		{"watchdog for another", "/s", "30000000", "7", Notifier{socket: "/s"}, ""},
		{"bad socket", "vsock:2:1", "1000000", "", Notifier{}, `NOTIFY_SOCKET="vsock:2:1"`},
		{"bad interval", "/s", "soon", "", Notifier{socket: "/s"}, `WATCHDOG_USEC="soon"`},
		{"no interval", "/s", "0", "42", Notifier{socket: "/s"}, `WATCHDOG_USEC="0"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(map[string]string{
				"NOTIFY_SOCKET": tt.socket, "WATCHDOG_USEC": tt.usec, "WATCHDOG_PID": tt.owner,
			}, pid)
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if (err == nil) != (tt.wantProblems == "") || err != nil && !strings.Contains(err.Error(), tt.wantProblems) {
				t.Errorf("error %v, want %q", err, tt.wantProblems)
			}
		})
	}
}

func TestCaptureTakesTheEnvironmentAway(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "@notify")
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	n, err := Capture()
	if want := (Notifier{"@notify", time.Second}); err != nil || n != want {
		t.Errorf("got %+v, error %v; want %+v", n, err, want)
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if value, ok := os.LookupEnv(name); ok {
			t.Errorf("%s=%q is still there", name, value)
		}
	}
	if n, err := Capture(); err != nil || n != (Notifier{}) {
		t.Errorf("the second time: %+v, error %v", n, err)
	}
}

func TestMessages(t *testing.T) {
	for kind, address := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": fmt.Sprintf("@knarr-test-%d", os.Getpid()),
	} {
		t.Run(kind, func(t *testing.T) {
			systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer systemd.Close()
			n := Notifier{socket: address}
			for _, message := range []struct {
				send func() error
				want string
			}{
				{n.Ready, "READY=1"},
				{n.Stopping, "STOPPING=1"},
				{func() error { return n.Extend(90 * time.Second) }, "EXTEND_TIMEOUT_USEC=90000000"},
				{func() error { return n.Status("waiting for\napiserver\n") }, "STATUS=waiting for apiserver"},
			} {
				if err := message.send(); err != nil {
					t.Fatal(err)
				}
				if got := receive(t, systemd); got != message.want {
					t.Errorf("systemd received %q, want %q", got, message.want)
				}
			}
		})
	}
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNobodyListens(t *testing.T) {
	n := Notifier{socket: filepath.Join(t.TempDir(), "none")}
	err := n.Ready()
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "notify systemd at "+n.socket) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutSystemd(t *testing.T) {
	var n Notifier
	for _, send := range []func() error{n.Ready, n.Stopping, func() error { return n.Status("x") }} {
		if err := send(); err != nil {
			t.Error(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		n.Watchdog(ctx, slog.New(slog.DiscardHandler), func(context.Context) error {
			t.Error("asked for health that nobody wants to know")
			return nil
		})
		if took := time.Since(began); took != time.Hour {
			t.Errorf("returned after %v, want when its context ends", took)
		}
	})
}

func TestWatchdogReachesSystemd(t *testing.T) {
	address := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n := Notifier{socket: address, interval: 10 * time.Millisecond}
		n.Watchdog(ctx, slog.New(slog.DiscardHandler), func(context.Context) error { return nil })
	}()
	for range 3 {
		if got := receive(t, systemd); got != "WATCHDOG=1" {
			t.Errorf("systemd received %q", got)
		}
	}
	cancel()
	<-ended
}

// Each turn is five seconds; the third and the fourth are unhealthy, the fifth
// hangs, the sixth cannot be sent.
func TestWatchdogTellsOnlyTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = 5 * time.Second
		var out bytes.Buffer
		var sent []string
		turn := 0
		healthy := func(ctx context.Context) error {
			turn++
			switch turn {
			case 3, 4:
				return errors.New("component apiserver:\nboom")
			case 5:
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		began := time.Now()
		send := func(message string) error {
			sent = append(sent, fmt.Sprint(time.Since(began), " ", message))
			if turn == 6 {
				return errors.New("connection refused")
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 6*every+time.Second)
		defer cancel()
		beat(ctx, slog.New(slog.NewTextHandler(&out, nil)), every, healthy, send)

		want := []string{
			"0s WATCHDOG=1",
			"5s WATCHDOG=1",
			"10s STATUS=unhealthy: component apiserver: boom",
			"15s STATUS=unhealthy: component apiserver: boom",
			"25s STATUS=unhealthy: context deadline exceeded",
			"25s WATCHDOG=1\nSTATUS=healthy again",
			"30s WATCHDOG=1",
		}
		if !slices.Equal(sent, want) {
			t.Errorf("sent:\n got %q\nwant %q", sent, want)
		}
		for text, count := range map[string]int{"watchdog is not fed": 3, "healthy again": 1, "cannot be reached": 1} {
			if got := strings.Count(out.String(), text); got != count {
				t.Errorf("%q is logged %d times, want %d", text, got, count)
			}
		}
	})
}

func TestWatchdogStopsWhileACheckRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		healthy := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		beat(ctx, slog.New(slog.DiscardHandler), time.Minute, healthy, func(message string) error {
			t.Errorf("sent %q while stopping", message)
			return nil
		})
	})
}
