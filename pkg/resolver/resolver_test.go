package resolver

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestServers(t *testing.T) {
	services := []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")}
	tests := []struct{ name, text, forward, conf string }{
		{"as on most hosts", "search a.example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n",
			"forward . 192.0.2.1 2001:db8::1\n", "search a.example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n"},
		{"loopback only", "nameserver 127.0.0.53\nnameserver ::1\nsearch x\n", "", "search x\n"},
		{"loopback and another", "nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "forward . 192.0.2.1\n", "nameserver 192.0.2.1\n"},
		{"loopback in IPv6 clothes", "nameserver ::ffff:127.0.0.1\nnameserver 0.0.0.0\n", "", ""},
		{"link-local", "nameserver fe80::1%eth0\nnameserver 169.254.169.253\n", "forward . 169.254.169.253\n", "nameserver 169.254.169.253\n"},
		{"the cluster's own", "nameserver 10.43.0.10\nnameserver fd43::a\nnameserver 192.0.2.1\n", "forward . 192.0.2.1\n", "nameserver 192.0.2.1\n"},
		{"twice the same", "nameserver 192.0.2.1\nnameserver 192.0.2.1\n", "forward . 192.0.2.1\n", "nameserver 192.0.2.1\nnameserver 192.0.2.1\n"},
		{"not an address, comments, no end of line", "# nameserver 1.1.1.1\nnameserver dns.example\nnameserver\nnameserver 192.0.2.1 # mine",
			"forward . 192.0.2.1\n", "# nameserver 1.1.1.1\nnameserver\nnameserver 192.0.2.1 # mine"},
		{"more than CoreDNS takes", many(20), "forward . " + strings.Join(strings.Fields(strings.ReplaceAll(many(15), "nameserver", "")), " ") + "\n", many(20)},
		{"empty", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			servers, conf := Servers(tt.text, services)
			if got := forward(servers); got != tt.forward {
				t.Errorf("forward is %q, want %q", got, tt.forward)
			}
			if conf != tt.conf {
				t.Errorf("resolv.conf is %q, want %q", conf, tt.conf)
			}
		})
	}
}

// many is a resolv.conf with n servers.
func many(n int) string {
	var b strings.Builder
	a := netip.MustParseAddr("192.0.2.1")
	for range n {
		b.WriteString("nameserver " + a.String() + "\n")
		a = a.Next()
	}
	return b.String()
}

// The host's file changes in all the ways in which hosts change it.
func TestFollowsTheHost(t *testing.T) {
	host, dir := t.TempDir(), filepath.Join(t.TempDir(), "dns")
	etc, run := filepath.Join(host, "etc"), filepath.Join(host, "run")
	for _, d := range []string{etc, run} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	first, second := filepath.Join(etc, "resolv.conf"), filepath.Join(run, "resolv.conf")
	c := New(Config{Sources: []string{first, second}, Dir: dir}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	started, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.Run(ctx, func() { close(started) }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	}()
	select {
	case <-started:
	case err := <-done:
		t.Fatal(err)
	}
	steps := []struct {
		name string
		do   func() error
		want string
	}{
		{"no file at all", func() error { return nil }, ""},
		{"created", func() error { return os.WriteFile(first, []byte("nameserver 192.0.2.1\n"), 0o644) }, "forward . 192.0.2.1\n"},
		{"written in place", func() error { return os.WriteFile(first, []byte("nameserver 192.0.2.2\n"), 0o644) }, "forward . 192.0.2.2\n"},
		{"a local resolver takes over", func() error {
			if err := os.WriteFile(second, []byte("nameserver 192.0.2.3\n"), 0o644); err != nil {
				return err
			}
			return os.WriteFile(first, []byte("nameserver 127.0.0.53\n"), 0o644)
		}, "forward . 192.0.2.3\n"},
		{"and gets another server", func() error { return os.WriteFile(second, []byte("nameserver 192.0.2.4\n"), 0o644) }, "forward . 192.0.2.4\n"},
		{"replaced by a link", func() error {
			if err := os.Symlink("../run/other", first+".new"); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(run, "other"), []byte("nameserver 192.0.2.5\n"), 0o644); err != nil {
				return err
			}
			return os.Rename(first+".new", first)
		}, "forward . 192.0.2.5\n"},
		{"what the link leads to is replaced", func() error {
			if err := os.WriteFile(filepath.Join(run, "new"), []byte("nameserver 192.0.2.6\n"), 0o644); err != nil {
				return err
			}
			return os.Rename(filepath.Join(run, "new"), filepath.Join(run, "other"))
		}, "forward . 192.0.2.6\n"},
		{"no servers any more", func() error {
			if err := os.Remove(second); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(run, "other"), nil, 0o644)
		}, ""},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		got := []byte("?")
		for string(got) != step.want && time.Now().Before(deadline) {
			<-time.After(5 * time.Millisecond)
			got, _ = os.ReadFile(filepath.Join(dir, ForwardName)) // compared below
		}
		if string(got) != step.want {
			t.Fatalf("%s: forwards by %q, want %q", step.name, got, step.want)
		}
	}
}
