package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// quiet is how long registries.yaml must have been left alone before it is read: some editors write in steps, and half
// a file can be a valid one.
const quiet = 100 * time.Millisecond

// Options are what a Watcher needs to know. Paths are absolute.
type Options struct {
	// File is registries.yaml; it may come and go.
	File string
	// Dir is containerd's config_path.
	Dir string
	// NoDefault is --disable-default-registry-endpoint.
	NoDefault bool
}

// Watcher is the component that keeps containerd's hosts.toml as registries.yaml says. Use [NewWatcher].
type Watcher struct {
	options Options
	log     *slog.Logger
	tokens  map[string]string // those containerd has read at its start
}

// NewWatcher makes the component.
func NewWatcher(o Options, log *slog.Logger) *Watcher { return &Watcher{options: o, log: log} }

// Name is "registry-config".
func (*Watcher) Name() string { return "registry-config" }

// Prepare reads registries.yaml and writes what it says. A bad file is an error, a [*config.Error], and changes nothing.
func (w *Watcher) Prepare(context.Context) error {
	s, err := Load(w.options.File)
	if err != nil {
		return err
	}
	w.tokens = s.IdentityTokens()
	_, err = Write(w.options.Dir, s.Files(w.options.NoDefault))
	return err
}

// Run follows the file. While it is bad, what it said before holds.
func (w *Watcher) Run(ctx context.Context, ready func()) (err error) {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_instances if it is used up", w.options.File, err)
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	// Without the directory there is nothing to be notified by.
	if err := atomicfile.MkdirAll(filepath.Dir(w.options.File), 0o755); err != nil {
		return err
	}
	if err := w.follow(watch); err != nil {
		return err
	}
	w.reload() // for a change after Prepare
	ready()
	settled := time.NewTimer(quiet)
	settled.Stop()
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watch.Events:
			if w.concerns(e.Name) {
				settled.Reset(quiet)
			}
		case err := <-watch.Errors: // events were lost
			w.log.Warn("watching the registry configuration had a hiccup", "file", w.options.File, "error", err)
			settled.Reset(quiet)
		case <-settled.C:
			if err := w.follow(watch); err != nil {
				w.log.Warn("cannot follow the registry configuration", "error", err)
			}
			w.reload()
		}
	}
}

// follow watches the directory of the file and, if that is a symbolic link, of what it points to: a file that is
// replaced by another takes its own watch along.
func (w *Watcher) follow(watch *fsnotify.Watcher) error {
	dirs := []string{filepath.Dir(w.options.File)}
	if target, err := filepath.EvalSymlinks(w.options.File); err == nil && target != w.options.File {
		dirs = append(dirs, filepath.Dir(target))
	}
	for _, old := range watch.WatchList() {
		if !slices.Contains(dirs, old) {
			_ = watch.Remove(old) // fails when the directory is gone, and then there is nothing to remove
		}
	}
	for _, dir := range dirs {
		if err := watch.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_watches if it is used up", dir, err)
		}
	}
	return nil
}

// concerns tells whether an event may have changed what the file says. In the directory a link points to, it may be any.
func (w *Watcher) concerns(name string) bool {
	return name == w.options.File || filepath.Dir(name) != filepath.Dir(w.options.File)
}

func (w *Watcher) reload() {
	s, err := Load(w.options.File)
	if err != nil {
		w.log.Error("the registry configuration stays as it was", "error", err)
		return
	}
	changed, err := Write(w.options.Dir, s.Files(w.options.NoDefault))
	if err != nil {
		w.log.Error("the registry configuration is only partly in force", "error", err)
		return
	}
	if changed {
		w.log.Info("registry configuration is in force", "file", w.options.File)
	}
	if tokens := s.IdentityTokens(); !maps.Equal(tokens, w.tokens) {
		w.tokens = tokens
		w.log.Warn("identity tokens of registries have changed; they are in force after a restart of knarr", "file", w.options.File)
	}
}
