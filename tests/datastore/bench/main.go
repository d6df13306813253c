// Command bench compares the stores: it starts each as a process of its own, loads it through an etcd client the way
// the apiserver does, and prints Markdown tables for docs/datastore.md.
//
//	go run ./tests/datastore/bench [-seconds 5] [-engines etcd,kine-normal,kine-full,knarr] [-parts load,size,slow]
//
// Part "load" is requests a second and latencies; "bytes" what an update writes to the disk, and "slow" the load on a
// disk of 50 writes a second (both need root, for a loop device); "size" is memory and start-up time with many keys;
// "compaction" the latency of writes while old revisions are deleted; "backup" the time for a backup of 1 GB.
//
// Everything listens on sockets in a temporary directory, which is removed at the end. It stops by itself.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// engines are the stores compared, with the endpoints that select them in pkg/datastore.
var engines = []struct{ name, title, endpoint string }{
	{"etcd", "etcd", "etcd"},
	{"kine-normal", "kine SQLite, NORMAL", "kine-sqlite://?NORMAL"},
	{"kine-full", "kine SQLite, FULL", "kine-sqlite://"},
	{"knarr", "knarr SQLite", ""},
}

// env of a process that is to be a store: ENDPOINT|DIR|SOCKET.
const envServe = "KNARR_BENCH_SERVE"

func main() {
	if spec := os.Getenv(envServe); spec != "" {
		f := strings.Split(spec, "|")
		exit(serve(f[0], f[1], f[2]))
	}
	seconds := flag.Int("seconds", 5, "length of each phase")
	names := flag.String("engines", "etcd,kine-normal,kine-full,knarr", "stores to compare")
	parts := flag.String("parts", "load,bytes,size,compaction,slow,backup", "what to measure")
	flag.Parse()
	dir, err := os.MkdirTemp("", "knarr-bench-")
	if err != nil {
		exit(err)
	}
	b := &bench{dir: dir, phase: time.Duration(*seconds) * time.Second, engines: strings.Split(*names, ",")}
	for _, part := range []struct {
		name string
		run  func() error
	}{{"load", b.load}, {"bytes", b.bytes}, {"size", b.size}, {"compaction", b.compaction}, {"slow", b.slow}, {"backup", b.backup}} {
		if err == nil && slices.Contains(strings.Split(*parts, ","), part.name) {
			err = part.run()
		}
	}
	exit(errors.Join(err, os.RemoveAll(dir)))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is a store until it is interrupted.
func serve(endpoint, dir, sock string) error {
	if endpoint == "etcd" {
		return serveEtcd(dir, sock)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		// The parent closes our standard input to end us.
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		cancel()
	}()
	logrus.SetOutput(io.Discard) // kine's
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c := datastore.New(datastore.Config{Endpoint: endpoint, Dir: dir, Listen: "unix://" + sock}, log)
	return c.Run(ctx, func() { fmt.Println("ready") })
}

func serveEtcd(dir, sock string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = dir, "fatal", []string{os.DevNull}
	cfg.QuotaBackendBytes = 8 << 30
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: sock}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = []url.URL{{Scheme: "unix", Path: sock + ".peer"}}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
		fmt.Println("ready")
	case err := <-e.Err():
		return err
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return nil
}

// bench holds what is measured with.
type bench struct {
	dir     string
	phase   time.Duration
	engines []string
}

// each calls f for each chosen engine.
func (b *bench) each(f func(title, endpoint string) error) error {
	for _, e := range engines {
		if slices.Contains(b.engines, e.name) {
			if err := f(e.title, e.endpoint); err != nil {
				return fmt.Errorf("%s: %w", e.title, err)
			}
		}
	}
	return nil
}

// store is a running store.
type store struct {
	cmd    *exec.Cmd
	stdin  interface{ Close() error }
	client *clientv3.Client
	took   time.Duration // from exec until it answered
}

func start(endpoint, dir string) (*store, error) {
	// Short, since the name of a socket must be.
	sock := filepath.Join(os.TempDir(), fmt.Sprintf("knarr-bench-%d-%x.sock", os.Getpid(), crc32.ChecksumIEEE([]byte(dir))))
	s := &store{cmd: exec.Command("/proc/self/exe")}
	s.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s", envServe, endpoint, dir, sock))
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the death of the thread that started it would be its signal
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stdin = in
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("start store: %w", err)
	}
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + sock}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		MaxCallRecvMsgSize: 1 << 30,
	})
	if err == nil {
		_, err = s.client.Get(context.Background(), "/registry/health")
	}
	s.took = time.Since(began)
	return s, err
}

func (s *store) stop() error {
	err := errors.Join(s.client.Close(), s.stdin.Close())
	return errors.Join(err, s.cmd.Wait())
}

// memory returns the store's anonymous memory.
func (s *store) memory() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, errors.New("no RssAnon in the process's status")
}
