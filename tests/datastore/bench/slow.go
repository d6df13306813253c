package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/datastore"
)

// slow is the load on a disk of 50 writes a second, by a cgroup around the store: an fsync then takes 20 ms or more,
// as on a cheap memory card.
func (b *bench) slow() error {
	fmt.Print("\n| disk of 50 writes a second: per second, p50 / p99 in ms | update, 1 writer | update, 32 writers |\n|---|---|---|\n")
	return b.each(func(title, endpoint string) error {
		lo, err := newLoop(b.dir)
		if err != nil {
			return err
		}
		s, err := start(endpoint, filepath.Join(lo.dir, "db"))
		if err != nil {
			return err
		}
		l := &loader{c: s.client, prefix: "/registry/slow/", revs: make([]int64, writers+1)}
		release, err := throttle(lo.device, s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		fmt.Printf("| %s", title)
		for _, workers := range []int{1, writers} {
			r, err := run(2*b.phase, workers, l.update)
			if err != nil {
				return err
			}
			fmt.Printf(" | %s", r)
		}
		fmt.Println(" |")
		return errors.Join(release(), s.stop(), lo.close())
	})
}

// throttle puts a process into a cgroup that may make 50 writes a second to a device.
func throttle(device string, pid int) (release func() error, err error) {
	dev, err := os.ReadFile(filepath.Join("/sys/block", device, "dev"))
	if err != nil {
		return nil, err
	}
	number := strings.TrimSpace(string(dev))
	group, file, limit := "/sys/fs/cgroup/blkio/knarr-bench", "blkio.throttle.write_iops_device", number+" 50"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		group, file, limit = "/sys/fs/cgroup/knarr-bench", "io.max", number+" wiops=50"
	}
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, err
	}
	write := func(path, what string) error { return os.WriteFile(path, []byte(what), 0o644) }
	if err := write(filepath.Join(group, file), limit); err != nil {
		return nil, err
	}
	if err := write(filepath.Join(group, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
		return nil, err
	}
	return func() error {
		return write(filepath.Join(filepath.Dir(group), "cgroup.procs"), strconv.Itoa(pid))
	}, nil
}

// backup is the time for a backup of a store of 1 GB that is in use, and what that does to writers.
func (b *bench) backup() error {
	dir := filepath.Join(b.dir, "backup")
	s, err := start("", filepath.Join(dir, "server", "db"))
	if err != nil {
		return err
	}
	l := &loader{c: s.client, prefix: "/registry/bench/", revs: make([]int64, writers+1)}
	for i := 0; ; i += 2000 {
		if _, err := run(b.phase, writers, func(w, n int) error {
			_, err := l.create(l.key(w, i*1000+n), value)
			return err
		}); err != nil {
			return err
		}
		st, err := s.client.Status(context.Background(), s.client.Endpoints()[0])
		if err != nil {
			return err
		}
		if st.DbSize >= 1<<30 {
			break
		}
	}
	before, err := run(b.phase, 8, l.update)
	if err != nil {
		return err
	}
	began, done := time.Now(), make(chan error, 1)
	var took time.Duration
	file := filepath.Join(b.dir, "backup-file")
	go func() {
		_, err := backup.Create(context.Background(), backup.Source{
			DataDir: dir, Datastore: datastore.Config{Dir: filepath.Join(dir, "server", "db")}, Log: slog.New(slog.DiscardHandler),
		}, file, backup.Options{})
		took = time.Since(began)
		done <- err
	}()
	during, err := run(b.phase, 8, l.update)
	if err := errors.Join(err, <-done); err != nil {
		return err
	}
	fi, err := os.Stat(file)
	if err != nil {
		return err
	}
	fmt.Printf("\nBackup of 1 GB in use, verified: %v, %d MiB. Updates by 8 writers before: %s; meanwhile: %s.\n",
		took.Round(100*time.Millisecond), fi.Size()>>20, before, during)
	return s.stop()
}
