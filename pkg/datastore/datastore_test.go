package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"github.com/knarr-io/knarr/pkg/seal"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// start runs a component until the test ends and returns a client of it.
func start(t *testing.T, c *Component) *clientv3.Client { return startIn(t, c) }

func startIn(t testing.TB, c *Component) *clientv3.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.Run(ctx, func() { close(up) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-up:
	case err := <-done:
		done <- nil
		t.Fatalf("Run ended before ready: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("not ready after 30 s")
	}
	a := c.Access()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: a.Endpoints,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return a.Dial(ctx, "tcp", addr)
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestServesInProcessAndOnASocketAndKeepsData(t *testing.T) {
	for _, endpoint := range []string{"", "kine-sqlite://"} {
		t.Run("endpoint="+endpoint, func(t *testing.T) {
			dir := t.TempDir()
			sock := filepath.Join(dir, "s.sock")
			config := Config{Endpoint: endpoint, Dir: filepath.Join(dir, "db"), Listen: "unix://" + sock}
			t.Run("write in-process", func(t *testing.T) {
				comp := New(config, slog.New(slog.DiscardHandler))
				if _, err := comp.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
					t.Errorf("Status before Run: %v, want ErrNotRunning", err)
				}
				client := start(t, comp)
				if _, err := client.Put(t.Context(), "/registry/a", "1"); err != nil {
					t.Fatal(err)
				}
				st, err := comp.Status(t.Context())
				if err != nil || st.Revision < 2 || st.DiskBytes == 0 {
					t.Errorf("Status = %+v, %v", st, err)
				}
			})
			t.Run("read through the socket after a restart", func(t *testing.T) {
				start(t, New(config, slog.New(slog.DiscardHandler)))
				client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + sock}})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				r, err := client.Get(t.Context(), "/registry/a")
				if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "1" {
					t.Fatalf("Get = %v, %v", r, err)
				}
				if fi, err := os.Stat(sock); err != nil || fi.Mode().Perm() != 0o600 {
					t.Errorf("socket: %v, %v; want mode 0600", fi, err)
				}
			})
		})
	}
}

func TestPrepareRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name   string
		config Config
		want   string
	}{
		{"unknown scheme", Config{Endpoint: "oracle://u:hunter2@h/db"}, "oracle://u:xxxxx@h/db"},
		{"no scheme", Config{Endpoint: "localhost:2379"}, "unknown scheme"},
		{"certificate without key", Config{Dir: dir, CertFile: "c"}, "go together"},
		{"missing CA", Config{Endpoint: "https://h:2379", CAFile: filepath.Join(dir, "no")}, "TLS file"},
		{"relative directory", Config{Dir: "db"}, "absolute"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := New(tc.config, slog.New(slog.DiscardHandler)).Prepare(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error shows the password")
			}
		})
	}
}

func TestBadListenAddressIsAnError(t *testing.T) {
	for address, want := range map[string]string{
		"localhost:1":        "unix:///PATH or tcp://HOST:PORT",
		"tcp://127.0.0.1":    "missing port",
		"tcp://0.0.0.0:2379": "only loopback",
		"tcp://:2379":        "only loopback",
		"http://127.0.0.1:1": "unix:///PATH",
	} {
		c := New(Config{Dir: t.TempDir(), Listen: address}, slog.New(slog.DiscardHandler))
		err := c.Run(t.Context(), func() { t.Error("ready was called") })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", address, err, want)
		}
	}
}

// TestOffline inspects, checks and compacts stores that no server uses.
func TestOffline(t *testing.T) {
	for _, endpoint := range []string{"", "kine-sqlite://"} {
		t.Run("endpoint="+endpoint, func(t *testing.T) {
			config := Config{Endpoint: endpoint, Dir: t.TempDir()}
			log := slog.New(slog.DiscardHandler)
			var revision int64
			t.Run("fill", func(t *testing.T) {
				client := start(t, New(config, log))
				for i := range 2000 {
					r, err := client.Put(t.Context(), fmt.Sprint("/registry/", i%10), strings.Repeat("x", 1000))
					if err != nil {
						t.Fatal(err)
					}
					revision = r.Header.Revision
				}
				if endpoint == "" {
					if err := Compact(t.Context(), config, log); !errors.Is(err, sqlite.ErrInUse) {
						t.Errorf("Compact while a server runs: %v", err)
					}
					if st, err := Inspect(t.Context(), config, log); err != nil || st.Running == nil || !*st.Running {
						t.Errorf("Inspect while a server runs: %+v, %v", st, err)
					}
				}
				if s, err := Check(t.Context(), config, log); err != nil || s.Keys != 10 {
					t.Errorf("Check while a server runs: %+v, %v", s, err)
				}
			})
			before, err := Inspect(t.Context(), config, log)
			if err != nil || before.Revision < revision || before.DiskBytes == 0 {
				t.Fatalf("Inspect: %+v, %v, want revision %d", before, err, revision)
			}
			sum, err := Check(t.Context(), config, log)
			if err != nil || sum.Keys != 10 || sum.Revision < revision {
				t.Errorf("Check: %+v, %v", sum, err)
			}
			if err := Compact(t.Context(), config, log); err != nil {
				t.Fatal(err)
			}
			after, err := Inspect(t.Context(), config, log)
			if err != nil || endpoint == "" && (after.DiskBytes > before.DiskBytes/10 || after.CompactRevision < revision) {
				t.Errorf("after Compact: %+v, %v; before %+v", after, err, before)
			}
			if again, err := Check(t.Context(), config, log); err != nil || again.Hash != sum.Hash || again.Keys != 10 {
				t.Errorf("Check after Compact: %+v, %v, want %+v", again, err, sum)
			}
		})
	}
}

func TestOfflineWithoutAStore(t *testing.T) {
	config := Config{Dir: t.TempDir()}
	log := slog.New(slog.DiscardHandler)
	for name, f := range map[string]func() error{
		"Inspect": func() error { _, err := Inspect(t.Context(), config, log); return err },
		"Check":   func() error { _, err := Check(t.Context(), config, log); return err },
		"Compact": func() error { return Compact(t.Context(), config, log) },
	} {
		if err := f(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want that there is none", name, err)
		}
	}
	if left, err := os.ReadDir(config.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDamageNamesTheNewestBackup(t *testing.T) {
	dir, backups := t.TempDir(), t.TempDir()
	config := Config{Dir: dir, BackupDir: backups}
	t.Run("make", func(t *testing.T) { start(t, New(config, slog.New(slog.DiscardHandler))) })
	path := filepath.Join(dir, sqlite.FileName())
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	newest := filepath.Join(backups, "knarr-20260102T000000Z.knarr-backup")
	for _, want := range []string{"no good backup in " + backups, newest} {
		err := New(config, slog.New(slog.DiscardHandler)).Run(t.Context(), func() { t.Error("ready was called") })
		var damage *sqlite.DamageError
		if !errors.As(err, &damage) || !strings.Contains(err.Error(), want) {
			t.Errorf("Run: %v, want %q", err, want)
		}
		sealed := new(bytes.Buffer)
		if err := seal.NewWriter(sealed).Close(); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{
			"knarr-20270102T000000Z.knarr-backup": nil, // damaged
			filepath.Base(newest):                 sealed.Bytes(),
			"knarr-20250102T000000Z.knarr-backup": sealed.Bytes(),
		} {
			if err := os.WriteFile(filepath.Join(backups, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSomeMembersAreDown uses an etcd cluster of which the first member that is named does not answer: as one of others that
// says who its members are, and as the user's own, which nobody asks for them.
func TestSomeMembersAreDown(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	endpoint := "http://" + silent.Addr().String() + "," + startEtcd(t)
	for _, apart := range []bool{true, false} {
		c := New(Config{Endpoint: endpoint, Apart: apart}, slog.New(slog.DiscardHandler))
		start(t, c)
		st, err := c.Status(t.Context())
		if want := map[bool]int{true: 1}[apart]; err != nil || len(st.Members) != want || apart && !st.Members[0].Leader {
			t.Errorf("apart %t: %+v, %v", apart, st, err)
		}
	}
}
