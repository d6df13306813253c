// Package coredns is the cluster's name server as a program: what runs in the pods of manifests/coredns.yaml, from
// knarr's own executable. Nothing of it runs in the server's process.
//
// The Corefile and what it imports can change while it runs: a change is served at once, and one that is wrong changes
// nothing. Nor can a wrong snippet of the user's keep the server from starting: it is reported, and left out.
//
// [Run] ends when its context does, and has then given the requests that it is working on the time that the Corefile's
// `lameduck` says.
package coredns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/fsnotify/fsnotify"
)

const (
	// serverType is how CoreDNS names itself to Caddy (core/dnsserver/register.go:16).
	serverType = "dns"
	// quiet is how long files must have been left alone before they are read again: the kubelet replaces those of a
	// ConfigMap in several steps.
	quiet = 200 * time.Millisecond
	// started is when all that a new instance needs only at its start has been done, the first lists of objects among it.
	started = 5 * time.Second
)

// Config is where the server has its configuration from.
type Config struct {
	// Corefile is the file to serve by. What it imports is below its directory.
	Corefile string
	// Snippets is the directory of what users add to it; the Corefile can do without.
	Snippets string
}

// Run serves what the Corefile says until ctx ends. It does what coremain.Run does (coremain/run.go:49) but for the
// flags and signals, which are the caller's. It may be called once in a process.
func Run(ctx context.Context, c Config, log *slog.Logger) (err error) {
	if err := dnsserver.Register(); err != nil {
		return err
	}
	clog.SetOutput(os.Stdout)
	caddy.Quiet = true // it would print the listeners in a format of its own
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.Corefile, err)
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	s := &server{Config: c, log: log}
	if err := errors.Join(s.follow(watch), s.start()); err != nil {
		return err
	}
	s.serve(ctx, watch)
	return errors.Join(append(s.instance.ShutdownCallbacks(), caddy.Stop())...)
}

// server is one run of CoreDNS.
type server struct {
	Config
	log      *slog.Logger
	instance *caddy.Instance
	read     content // as the instance has it, or as it failed
}

// content is the text of all files.
type content struct{ corefile, imports, snippets string }

// serve follows the files.
func (s *server) serve(ctx context.Context, watch *fsnotify.Watcher) {
	settled := time.NewTimer(quiet)
	settled.Stop()
	defer settled.Stop()
	rest := time.NewTimer(started)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
			debug.FreeOSMemory() // half of the heap is what knarr's packages made on their way up
		case <-watch.Events:
			settled.Reset(quiet)
		case err := <-watch.Errors: // events were lost
			s.log.Warn("watching the Corefile had a hiccup", "error", err)
			settled.Reset(quiet)
		case <-settled.C:
			if err := errors.Join(s.follow(watch), s.reload()); err != nil {
				s.log.Error("the changed Corefile cannot be served; the one before still is", "error", err)
			}
			rest.Reset(started)
		}
	}
}

// follow watches the directory of the Corefile and those below it.
func (s *server) follow(watch *fsnotify.Watcher) error {
	root := filepath.Dir(s.Corefile)
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("read the Corefile's directory: %w", err)
	}
	dirs := []string{root}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), "..") { // those are the kubelet's versions of a ConfigMap
			dirs = append(dirs, filepath.Join(root, e.Name()))
		}
	}
	for _, dir := range dirs {
		if err := watch.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return nil
}

// start starts serving; without the snippets where they are what is wrong.
func (s *server) start() error {
	var err error
	if s.read, err = s.load(); err != nil {
		return err
	}
	if s.instance, err = caddy.Start(s.input(s.read.corefile)); err == nil {
		return nil
	}
	if err := s.plain(err, caddy.Start); err != nil {
		return fmt.Errorf("start CoreDNS: %w", err)
	}
	return nil
}

// reload serves by the files as they are now. A new instance takes over the listeners of the old one, which goes on
// when the new one cannot be (caddy.go: Restart).
func (s *server) reload() error {
	now, err := s.load()
	before := s.read
	if err != nil || now == before {
		return err
	}
	s.read = now
	next, err := s.restart(s.input(now.corefile))
	if err == nil {
		s.instance = next
		s.log.Info("serving by the changed Corefile")
		return nil
	}
	if before.corefile == now.corefile && before.imports == now.imports {
		return err // nothing but the snippets has changed: they are what is wrong
	}
	return s.plain(err, s.restart)
}

// plain serves without the snippets, as with them it failed by cause.
func (s *server) plain(cause error, serve func(caddy.Input) (*caddy.Instance, error)) error {
	plain := s.withoutSnippets(s.read.corefile)
	if plain == s.read.corefile {
		return cause
	}
	next, err := serve(s.input(plain))
	if err != nil {
		return err
	}
	s.instance = next
	s.log.Error("serving without the snippets in "+s.Snippets+", one of which is wrong", "error", cause)
	return nil
}

// restart is Instance.Restart, which has no instance to return when it panics.
func (s *server) restart(input caddy.Input) (*caddy.Instance, error) {
	next, err := s.instance.Restart(input)
	if err == nil && next == nil {
		err = errors.New("CoreDNS panicked over it")
	}
	return next, err
}

func (s *server) input(corefile string) caddy.Input {
	return caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: s.Corefile, ServerTypeName: serverType}
}

// load reads the Corefile and all that it can import.
func (s *server) load() (content, error) {
	text, err := os.ReadFile(s.Corefile)
	if err != nil {
		return content{}, fmt.Errorf("read the Corefile: %w", err)
	}
	imports, err := filepath.Glob(filepath.Join(filepath.Dir(s.Corefile), "*", "*"))
	if err != nil {
		return content{}, err
	}
	c := content{corefile: string(text)}
	for _, path := range imports {
		part, err := os.ReadFile(path)
		if err != nil { // a directory, or just gone: nothing to import
			continue
		}
		into := &c.imports
		if filepath.Dir(path) == s.Snippets {
			into = &c.snippets
		}
		*into += path + "\x00" + string(part) + "\x00"
	}
	return c, nil
}

// withoutSnippets is the Corefile without its imports of snippets.
func (s *server) withoutSnippets(corefile string) string {
	var kept strings.Builder
	for line := range strings.Lines(corefile) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == "import" && filepath.Dir(fields[1]) == s.Snippets {
			continue
		}
		kept.WriteString(line)
	}
	return kept.String()
}
