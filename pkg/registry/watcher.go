package registry

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"time"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/filewatch"
)

// quiet is how long registries.yaml must have been left alone before it is read.
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
func (w *Watcher) Run(ctx context.Context, ready func()) error {
	// Without the directory there is nothing to be notified by.
	if err := atomicfile.MkdirAll(filepath.Dir(w.options.File), 0o755); err != nil {
		return err
	}
	return filewatch.Run(ctx, filewatch.Config{
		What: "the registry configuration", Paths: w.paths, Concerns: w.concerns, Quiet: quiet,
		Changed: func() error { w.reload(); return nil }, // at first for a change after Prepare
	}, w.log, ready)
}

// paths are the directory of the file and, if that is a symbolic link, of what it points to: a file that is replaced by
// another takes its own watch along.
func (w *Watcher) paths() []string {
	dirs := []string{filepath.Dir(w.options.File)}
	if target, err := filepath.EvalSymlinks(w.options.File); err == nil && target != w.options.File {
		dirs = append(dirs, filepath.Dir(target))
	}
	return dirs
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
