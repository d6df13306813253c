package pki

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	// checkInterval is how often a Renewer looks. Renewal begins months before
	// the end, so that a machine asleep most of the day is in time too.
	checkInterval = 24 * time.Hour
	// retryInterval is how soon it looks again after a failure, such as a full disk.
	retryInterval = time.Hour
	// alarmBefore is the remaining life below which a Renewer that could not
	// renew counts as unhealthy.
	alarmBefore = 14 * 24 * time.Hour
)

// Renewer keeps the certificates valid for as long as the process lives. Its
// Prepare makes them; its Run looks once a day. Nothing needs a restart: what
// reads certificates here reads them again by itself (docs/certificates.md has
// the list, with sources).
//
// It is a lifecycle Component, Preparer and Checker. It stops between two
// checks, never inside one.
type Renewer struct {
	ensure func(context.Context, time.Time) (Result, error)
	log    *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	expiry  time.Time // first end among the leaf certificates; zero before Prepare
	lastErr error     // of the last check
}

// NewRenewer returns a Renewer for cfg. It does nothing yet. The clock is
// time.Now if now is nil.
func NewRenewer(cfg Config, log *slog.Logger, now func() time.Time) *Renewer {
	ensure := func(_ context.Context, now time.Time) (Result, error) { return Ensure(now, cfg) }
	return NewRenewerOf(ensure, log, now)
}

// NewRenewerOf is NewRenewer with another way to make the files match, for a
// machine whose authorities are elsewhere: see EnsureJoined.
func NewRenewerOf(ensure func(context.Context, time.Time) (Result, error), log *slog.Logger, now func() time.Time) *Renewer {
	if now == nil {
		now = time.Now
	}
	return &Renewer{ensure: ensure, log: log, now: now}
}

// Name implements lifecycle.Component.
func (r *Renewer) Name() string { return "certificates" }

// Prepare runs Ensure and logs what it did.
func (r *Renewer) Prepare(ctx context.Context) error { return r.check(ctx) }

// Run looks after the certificates until ctx ends. It is ready at once, since
// Prepare has made them, and a failed renewal does not end it: there are months
// left to mend what stands in the way, and Check tells when there are not.
func (r *Renewer) Run(ctx context.Context, ready func()) error {
	ready()
	timer := time.NewTimer(checkInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		next := checkInterval
		if err := r.check(ctx); err != nil {
			next = retryInterval
			r.log.Error("certificates could not be checked or renewed", "error", err, "retryIn", next)
		}
		timer.Reset(next)
	}
}

// Check implements lifecycle.Checker: it fails when renewing failed and time is
// running out.
func (r *Renewer) Check(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lastErr != nil && r.expiry.Sub(r.now()) < alarmBefore {
		return fmt.Errorf("certificates end on %s and cannot be renewed: %w", stamp(r.expiry), r.lastErr)
	}
	return nil
}

func (r *Renewer) check(ctx context.Context) error {
	result, err := r.ensure(ctx, r.now())
	r.mu.Lock()
	r.lastErr = err
	if !result.NextExpiry.IsZero() && err == nil {
		r.expiry = result.NextExpiry
	}
	r.mu.Unlock()
	for _, c := range result.Changes {
		level := slog.LevelInfo
		if c.Action == Created || c.Action == Updated {
			level = slog.LevelDebug // a first start makes thirty files; that is no news
		}
		r.log.Log(context.Background(), level, "certificate "+string(c.Action), "name", c.Name, "path", c.Path, "reason", c.Reason)
	}
	for _, w := range result.Warnings {
		r.log.Warn(w)
	}
	return err
}
