package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/tests/bed"
)

// runServer starts a server in dir and returns a function that stops it and waits.
func runServer(t *testing.T, config Config) (stop func()) {
	t.Helper()
	config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- New(config).Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("server ended before it was ready: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestStatusAndStop(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := Status{Version: "v1", PID: 7, StartTime: now, Role: "server", NodeName: "n",
		Datastore: &Datastore{Kind: "sqlite"},
		Components: []lifecycle.Status{{Name: "kubelet", State: lifecycle.Waiting, Since: now,
			WaitingFor: []string{"containerd"}, LastError: "no"}}}
	asked := make(chan struct{}, 1)
	stop := runServer(t, Config{Dir: dir, Status: func() Status { return want }, Stop: func() { asked <- struct{}{} }})

	info, err := os.Stat(SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("socket has mode %o, want 600", mode)
	}
	got, err := NewClient(dir).Status(t.Context())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("status is %+v, %v; want %+v", got, err, want)
	}
	reply, err := NewClient(dir).Stop(t.Context())
	if err != nil || reply.PID != os.Getpid() {
		t.Errorf("stop gave %+v, %v; want pid %d", reply, err, os.Getpid())
	}
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("stop was not passed on")
	}
	if pid, err := LockedPID(dir); err != nil || pid != os.Getpid() {
		t.Errorf("pid file names %d, %v; want %d", pid, err, os.Getpid())
	}

	stop()
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status after the end: %v, want ErrNotRunning", err)
	}
	if _, err := LockedPID(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("pid after the end: %v, want ErrNotRunning", err)
	}
	if _, err := os.Stat(SocketPath(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the end: %v, want none", err)
	}
}

func TestEndPods(t *testing.T) {
	dir := t.TempDir()
	asked := make(chan time.Duration, 1)
	runServer(t, Config{Dir: dir, EndPods: func(grace time.Duration) { asked <- grace }})
	if err := NewClient(dir).EndPods(t.Context(), 90*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != 90*time.Second {
		t.Errorf("the grace arrived as %v", got)
	}
	if err := NewClient(dir).EndPods(t.Context(), -time.Second); err == nil {
		t.Error("a negative grace was taken")
	}
}

func TestRemoveMember(t *testing.T) {
	dir := t.TempDir()
	runServer(t, Config{Dir: dir, RemoveMember: func(_ context.Context, node string) ([]string, error) {
		if node != "a node" {
			return nil, errors.New("there is no such node")
		}
		return []string{"a node-01234567"}, nil
	}})
	got, err := NewClient(dir).RemoveMember(t.Context(), "a node")
	if err != nil || !reflect.DeepEqual(got, []string{"a node-01234567"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := NewClient(dir).RemoveMember(t.Context(), "another"); err == nil || !strings.Contains(err.Error(), "there is no such node") {
		t.Errorf("another: %v", err)
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	dir := t.TempDir()
	runServer(t, Config{Dir: dir, Status: func() Status { return Status{} }})
	second := New(Config{Dir: dir})
	err := second.Prepare(t.Context())
	if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), "pid ") {
		t.Fatalf("second server: %v, want ErrRunning with the pid of the first", err)
	}
	if _, err := NewClient(dir).Status(t.Context()); err != nil {
		t.Errorf("the first server no longer answers: %v", err)
	}
}

// The lock must end with its process even when that had no chance to clean up.
func TestLeftoversOfKilledServerAreTakenOver(t *testing.T) {
	if dir := os.Getenv("CONTROL_TEST_DIR"); dir != "" {
		holdUntilKilled(t, dir)
	}
	dir := t.TempDir()
	cmd := bed.Again(t, "CONTROL_TEST_DIR="+dir, "-test.run=^TestLeftoversOfKilledServerAreTakenOver$")
	if pid, err := LockedPID(dir); err != nil || pid != cmd.Process.Pid {
		t.Errorf("pid is %d, %v; want %d", pid, err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Fatalf("killed server ended with %v", err)
	}
	for _, path := range []string{SocketPath(dir), PIDPath(dir)} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("the killed server was to leave %s: %v", path, err)
		}
	}
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status on a stale socket: %v, want ErrNotRunning", err)
	}
	if _, err := LockedPID(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("pid of a killed server: %v, want ErrNotRunning", err)
	}
	runServer(t, Config{Dir: dir, Status: func() Status { return Status{Version: "next"} }})
	if got, err := NewClient(dir).Status(t.Context()); err != nil || got.Version != "next" {
		t.Errorf("the next server answers %+v, %v", got, err)
	}
}

func holdUntilKilled(t *testing.T, dir string) {
	server := New(Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Status: func() Status { return Status{} }})
	err := server.Run(context.Background(), func() {
		if _, err := os.Stdout.WriteString("ready\n"); err != nil {
			t.Error(err)
		}
	})
	t.Fatalf("server ended: %v", err)
}

func TestClientErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewClient(dir).Stop(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v, want ErrNotRunning", err)
	}
	if err := os.WriteFile(PIDPath(dir), []byte("12\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LockedPID(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("unlocked pid file: %v, want ErrNotRunning", err)
	}
	// Something that accepts and says nothing sensible must give an error, not a status.
	l, err := net.Listen("unix", SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "broken", http.StatusInternalServerError)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	}()
	if _, err := NewClient(dir).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got %v, want the text of the answer", err)
	}
}

func TestPrepareOnUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := New(Config{Dir: filepath.Join(file, "run")}).Prepare(t.Context()); err == nil {
		t.Error("no error for a run directory below a file")
	}
}
