// Package filewatch tells of changes to a few files that others write: whether in place, by renaming another file over
// them, or by pointing a link elsewhere; also when they are made later.
//
// It reads nothing, and does not follow whole trees. It starts no goroutine but fsnotify's, which ends with [Run].
package filewatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Config says what to watch.
type Config struct {
	// What is what the files are, as the log calls it.
	What string
	// Paths are the files and directories to watch. It is asked again after each change, since a link may lead elsewhere
	// then. One that is not there is left out.
	Paths func() []string
	// Concerns tells whether something at a path is a change of the files.
	Concerns func(path string) bool
	// Quiet is how long the files must have been left alone before Changed is called: some editors write in steps, and half
	// a file can be a valid one.
	Quiet time.Duration
	// Changed takes the files in. It is called at the beginning, when they are being watched, and after each change.
	Changed func() error
}

// Run watches until ctx ends. It calls ready when Changed was called for the first time; an error then is Run's. Later ones
// are logged, and what was before holds.
func Run(ctx context.Context, c Config, log *slog.Logger, ready func()) (err error) {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_instances if it is used up", c.What, err)
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	if err := errors.Join(c.follow(watch), c.Changed()); err != nil {
		return err
	}
	ready()
	settled := time.NewTimer(c.Quiet)
	settled.Stop()
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watch.Events:
			if c.Concerns(e.Name) {
				settled.Reset(c.Quiet)
			}
		case err := <-watch.Errors: // events were lost
			log.Warn("watching "+c.What+" had a hiccup", "error", err)
			settled.Reset(c.Quiet)
		case <-settled.C:
			if err := errors.Join(c.follow(watch), c.Changed()); err != nil {
				log.Warn("cannot follow "+c.What, "error", err)
			}
		}
	}
}

// follow has the paths watched, and nothing else.
func (c Config) follow(watch *fsnotify.Watcher) error {
	paths := c.Paths()
	for _, old := range watch.WatchList() {
		if !slices.Contains(paths, old) {
			_ = watch.Remove(old) // fails when it is gone, and then there is nothing to remove
		}
	}
	for _, path := range paths {
		if err := watch.Add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_watches if it is used up", path, err)
		}
	}
	return nil
}
