package backup

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

func schedule(t *testing.T, spec string) cron.Schedule {
	t.Helper()
	when, err := cron.ParseStandard(spec)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func TestSchedulerCountsFromTheNewestBackup(t *testing.T) {
	dir := t.TempDir()
	x := NewScheduler(Schedule{Series: series, Dir: dir, Keep: 2}, slog.New(slog.DiscardHandler))
	every := schedule(t, "@every 12h")
	now := time.Now().Truncate(time.Second)
	if wait := x.next(every, now); wait != 0 {
		t.Errorf("the first backup is due in %v", wait)
	}
	if err := os.WriteFile(filepath.Join(dir, series.Name(now.Add(-5*time.Hour))), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if wait := x.next(every, now); wait != 7*time.Hour {
		t.Errorf("the next backup is due in %v, want 7h", wait)
	}
	if wait := x.next(schedule(t, "0 0 30 2 *"), now); wait != 24*time.Hour {
		t.Errorf("a schedule without times is looked at again in %v", wait)
	}
}

// TestSchedulerKeepsTime has the server off over a time of the table, which is local time.
func TestSchedulerKeepsTime(t *testing.T) {
	dir := t.TempDir()
	zone := time.FixedZone("east", 3*3600)
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 3, day, hour, minute, 0, 0, zone) }
	if err := os.WriteFile(filepath.Join(dir, series.Name(at(1, 12, 0))), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	x := NewScheduler(Schedule{Series: series, Dir: dir, Keep: 2}, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		now  time.Time
		want time.Duration
	}{
		{at(1, 12, 1), 11*time.Hour + 59*time.Minute}, {at(1, 23, 59), time.Minute}, {at(2, 0, 0), 0}, {at(9, 4, 0), 0},
	} {
		if wait := x.next(schedule(t, "0 */12 * * *"), c.now); wait != c.want {
			t.Errorf("at %v the next is due in %v, want %v", c.now, wait, c.want)
		}
	}
}

func TestSchedulerRefusesBadConfiguration(t *testing.T) {
	for want, s := range map[string]Schedule{
		"schedule":     {Dir: t.TempDir(), Cron: "often", Keep: 1},
		"at least one": {Dir: t.TempDir(), Cron: "@daily"},
		"bucket":       {Dir: t.TempDir(), Cron: "@daily", Keep: 1, Place: Place{Fixed: &S3{}}},
	} {
		if err := NewScheduler(s, slog.New(slog.DiscardHandler)).Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
}

func TestSchedulerMakesBackups(t *testing.T) {
	h := newHost(t)
	h.fill(t)
	dir := filepath.Join(t.TempDir(), "backups")
	x := NewScheduler(Schedule{Series: series, Source: h.source(), Dir: dir, Cron: "@every 1h", Keep: 1}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx, func() {}) }()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if files, err := List(dir); err == nil && len(files) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no backup after 30 s")
		}
		<-time.After(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSchedulerSendsLater has nowhere to send a backup to at first: it is sent once that can be, and not made again.
func TestSchedulerSendsLater(t *testing.T) {
	h := newHost(t)
	h.fill(t)
	f := &fakeS3{objects: map[string][]byte{}}
	s := newRemote(t, f).s
	missing := errors.New("there is no Secret")
	dir := t.TempDir()
	x := NewScheduler(Schedule{
		Series: series, Source: h.source(), Dir: dir, Keep: 3, Place: Place{Read: func(context.Context) (S3, error) { return s, missing }},
	}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	every := schedule(t, "@every 12h")
	if err := x.turn(t.Context(), every); !errors.Is(err, missing) {
		t.Errorf("with nowhere to send it: %v", err)
	}
	missing = nil
	for range 2 {
		if err := x.turn(t.Context(), every); err != nil {
			t.Error(err)
		}
	}
	if files, err := List(dir); err != nil || len(files) != 1 || len(f.objects) != 1 {
		t.Errorf("made %v, %v, sent %v; want one", files, err, f.objects)
	}
}
