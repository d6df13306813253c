// Package images brings images into containerd that no registry is asked for: archives that the user puts into a
// directory (agent/images), at the start and while knarr runs, and those that knarr itself brings along ([Ensure]).
// All of them are pinned: the kubelet never collects them.
//
// It is not a cache: an image stays when its archive goes, and an image that somebody removed comes back at the next
// start as long as its archive is there.
//
// The component stops when its context ends; an archive that was being imported is imported at the next start, and what
// a killed import left behind in containerd is collected by containerd.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// DefaultSettle is the default of Config.Settle.
const DefaultSettle = time.Second

// Config is what the import needs to know. Paths are absolute.
type Config struct {
	// Address is containerd's socket.
	Address string
	// Snapshotter is the one that pods use.
	Snapshotter string
	// Dir holds what to import: *.tar, *.tar.gz, *.tgz and *.tar.zst are archives as `docker save` writes them or OCI
	// layouts; *.txt are lists of images to pull, one a line, # for comments.
	Dir string
	// Record is the file that remembers what was imported, so that an archive is not read again at every start.
	Record string
	// Settle is how long a file must have been left alone to count as complete; default one second.
	Settle time.Duration
}

// Component imports images. Use [New].
type Component struct {
	config Config
	log    *slog.Logger
	open   func() (store, func() error, error)
}

// New makes the component. containerd must answer when it runs.
func New(c Config, log *slog.Logger) *Component {
	if c.Settle <= 0 {
		c.Settle = DefaultSettle
	}
	return &Component{config: c, log: log, open: func() (store, func() error, error) { return connect(c.Address, c.Snapshotter) }}
}

// Name is "image-import".
func (*Component) Name() string { return "image-import" }

// Run is ready when all archives that it found have been dealt with, so that the first pods find their images; pulling
// takes its time after that. An archive that was written to just before first gets the time to show that it is complete,
// and is imported later if it is not. One that cannot be imported is reported and holds up no other.
func (c *Component) Run(ctx context.Context, ready func()) (err error) {
	images, disconnect, err := c.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disconnect()) }()
	if err := atomicfile.MkdirAll(c.config.Dir, 0o755); err != nil {
		return err
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_instances if it is used up", c.config.Dir, err)
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	if err := watch.Add(c.config.Dir); err != nil { // before the first look, so that nothing is missed between
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_watches if it is used up", c.config.Dir, err)
	}
	i := &importer{config: c.config, log: c.log, store: images, record: loadRecord(c.config.Record, c.log), pending: make(map[string]pending)}
	if err := i.scan(); err != nil {
		return err
	}
	if err := i.settle(ctx); err != nil {
		return err
	}
	i.work(ctx, archive)
	ready()
	return i.follow(ctx, watch)
}

// settle waits until every archive that was found has been left alone for long enough or been written to once more.
func (i *importer) settle(ctx context.Context) error {
	var last time.Time
	for name, p := range i.pending {
		if kind(name) == archive && p.due.After(last) {
			last = p.due
		}
	}
	wait := min(time.Until(last), i.config.Settle) // whatever the clock does meanwhile
	if wait <= 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(wait):
	}
	return i.scan()
}

// follow imports what is put into the directory from now on.
func (i *importer) follow(ctx context.Context, watch *fsnotify.Watcher) error {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		due.Stop()
		if next, ok := i.next(); ok {
			due.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case e := <-watch.Events:
			i.expect(filepath.Base(e.Name), time.Now().Add(i.config.Settle))
		case err := <-watch.Errors: // events were lost
			i.log.Warn("watching the image directory had a hiccup", "directory", i.config.Dir, "error", err)
			if err := i.scan(); err != nil {
				return err
			}
		case <-due.C:
			i.work(ctx, archive, list)
		}
	}
}

// scan expects every file in the directory, those that were written to just now a little later, and forgets what it
// remembers of others.
func (i *importer) scan() error {
	entries, err := os.ReadDir(i.config.Dir)
	if err != nil {
		return fmt.Errorf("look for image archives: %w", err)
	}
	there := make(map[string]bool)
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(i.config.Dir, e.Name())) // follows links
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at image archive: %w", err)
		}
		there[e.Name()] = true
		due := info.ModTime().Add(i.config.Settle)
		if now := time.Now(); info.ModTime().After(now) { // by another clock; a host without one may be years behind
			due = now
		}
		i.expect(e.Name(), due)
	}
	for name := range i.record.Archives {
		if !there[name] {
			i.forget(name)
		}
	}
	return nil
}
