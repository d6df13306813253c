package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when to make backups and how many to keep.
type Schedule struct {
	Source
	Options
	// Series is what their names begin with.
	Series Series
	// Dir is where they go, made when missing.
	Dir string
	// Cron is when they are made, in cron's five fields and local time, or as @daily or @every 12h. A time that passed
	// while the server was off is made up for, and a directory without a backup gets one. Empty: none is made.
	Cron string
	// Settle is how long after the start none is made yet.
	Settle time.Duration
	// Keep is how many stay; at least one.
	Keep int
	// Place is where they are sent as well.
	Place Place
}

// retryAfter is the time between attempts at a backup that fails.
const retryAfter = 10 * time.Minute

// Scheduler makes backups while the server runs. Use [NewScheduler].
type Scheduler struct {
	s   Schedule
	log *slog.Logger
	// unsent is the newest backup that could not be sent yet; empty for none.
	unsent string
}

// NewScheduler describes a scheduler; nothing happens before Run.
func NewScheduler(s Schedule, log *slog.Logger) *Scheduler { return &Scheduler{s: s, log: log} }

// Name implements lifecycle.Component.
func (*Scheduler) Name() string { return "backup" }

// Prepare checks the configuration and makes the directory.
func (x *Scheduler) Prepare(context.Context) error {
	if err := x.s.Place.check(); err != nil {
		return err
	}
	if x.s.Cron == "" {
		return nil
	}
	if _, err := cron.ParseStandard(x.s.Cron); err != nil {
		return fmt.Errorf("read schedule of backups %q: %w", x.s.Cron, err)
	}
	if x.s.Keep < 1 {
		return fmt.Errorf("backups to keep: %d: at least one has to stay", x.s.Keep)
	}
	if err := os.MkdirAll(x.s.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory for backups: %w", err)
	}
	return nil
}

// Run implements lifecycle.Component. A backup that fails is logged and tried again; it never ends the server.
func (x *Scheduler) Run(ctx context.Context, ready func()) error {
	if err := x.Prepare(ctx); err != nil {
		return err
	}
	ready()
	if x.s.Cron == "" {
		<-ctx.Done()
		return nil
	}
	when, err := cron.ParseStandard(x.s.Cron)
	if err != nil {
		return fmt.Errorf("read schedule of backups %q: %w", x.s.Cron, err)
	}
	for wait := max(x.s.Settle, x.next(when, time.Now())); pause(ctx, wait); {
		err := x.turn(ctx, when)
		if wait = x.next(when, time.Now()); err == nil {
			continue
		}
		if ctx.Err() == nil {
			x.log.Error("scheduled backup failed and will be tried again", "err", err, "in", retryAfter)
		}
		wait = retryAfter
	}
	return nil
}

// pause reports whether the time has passed, and not ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// next is the time until the next backup is due.
func (x *Scheduler) next(when cron.Schedule, now time.Time) time.Duration {
	files, err := List(x.s.Dir)
	if files = x.s.Series.of(files); err != nil || len(files) == 0 {
		return 0
	}
	due := when.Next(files[0].Created.In(now.Location()))
	if due.IsZero() {
		due = now.Add(24 * time.Hour) // never, such as 30 February; looked at again tomorrow
	}
	return max(0, due.Sub(now))
}

// turn makes the backup that is due, and sends the newest that is not sent.
func (x *Scheduler) turn(ctx context.Context, when cron.Schedule) (err error) {
	if x.next(when, time.Now()) == 0 {
		err = x.backUp(ctx)
	}
	if x.unsent == "" {
		return err
	}
	sent := x.s.Place.Send(ctx, x.unsent, x.s.Series, -1)
	if sent == nil || errors.Is(sent, fs.ErrNotExist) { // somebody has removed it
		x.unsent = ""
	}
	return errors.Join(err, sent)
}

func (x *Scheduler) backUp(ctx context.Context) error {
	began := time.Now()
	file := filepath.Join(x.s.Dir, x.s.Series.Name(began))
	info, err := Create(ctx, x.s.Source, file, x.s.Options)
	if err != nil {
		return err
	}
	x.unsent = file
	removed, err := Prune(x.s.Dir, x.s.Series, x.s.Keep)
	x.log.Info("backup made", "file", file, "keys", info.Datastore.Keys, "revision", info.Datastore.Revision,
		"took", time.Since(began).Round(time.Millisecond), "removed", len(removed))
	return err
}
