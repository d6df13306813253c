package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Schedule says when to make backups and how many to keep.
type Schedule struct {
	Source
	// Dir is where they go, made when missing.
	Dir string
	// Every is the time between two backups, counted from the newest that is there, also across restarts. 0: none.
	Every time.Duration
	// Keep is how many stay; at least one.
	Keep int
	// Passphrase encrypts them when not empty.
	Passphrase []byte
	// S3 is where they are sent as well, with the same number kept; nil for nowhere.
	S3 *S3
}

// Scheduler makes backups while the server runs. Use [NewScheduler].
type Scheduler struct {
	s   Schedule
	log *slog.Logger
}

// NewScheduler describes a scheduler; nothing happens before Run.
func NewScheduler(s Schedule, log *slog.Logger) *Scheduler { return &Scheduler{s: s, log: log} }

// Name implements lifecycle.Component.
func (*Scheduler) Name() string { return "backup" }

// Prepare checks the configuration and makes the directory.
func (x *Scheduler) Prepare(context.Context) error {
	if x.s.S3 != nil {
		if _, err := NewRemote(*x.s.S3); err != nil {
			return err
		}
	}
	if x.s.Every > 0 && x.s.Keep < 1 {
		return fmt.Errorf("backups to keep: %d: at least one has to stay", x.s.Keep)
	}
	if err := os.MkdirAll(x.s.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory for backups: %w", err)
	}
	return nil
}

// Run implements lifecycle.Component. A backup that fails is logged and tried again after a tenth of the time; it never
// ends the server.
func (x *Scheduler) Run(ctx context.Context, ready func()) error {
	if err := x.Prepare(ctx); err != nil {
		return err
	}
	ready()
	if x.s.Every <= 0 {
		<-ctx.Done()
		return nil
	}
	for wait := x.next(time.Now()); ; wait = x.next(time.Now()) {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := x.backUp(ctx); err != nil && ctx.Err() == nil {
			x.log.Error("scheduled backup failed and will be tried again", "err", err, "in", x.s.Every/10)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(x.s.Every / 10):
			}
		}
	}
}

// next is the time until the next backup is due.
func (x *Scheduler) next(now time.Time) time.Duration {
	files, err := List(x.s.Dir)
	if err != nil || len(files) == 0 {
		return 0
	}
	return max(0, files[0].Created.Add(x.s.Every).Sub(now))
}

func (x *Scheduler) backUp(ctx context.Context) error {
	began := time.Now()
	file := filepath.Join(x.s.Dir, Name(began))
	info, err := Create(ctx, x.s.Source, file, x.s.Passphrase)
	if err != nil {
		return err
	}
	removed, err := Prune(x.s.Dir, x.s.Keep)
	if x.s.S3 != nil {
		err = errors.Join(err, Send(ctx, *x.s.S3, file, x.s.Keep))
	}
	x.log.Info("backup made", "file", file, "keys", info.Datastore.Keys, "revision", info.Datastore.Revision,
		"took", time.Since(began).Round(time.Millisecond), "removed", len(removed))
	return err
}
