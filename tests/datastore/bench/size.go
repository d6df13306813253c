package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// size is memory and start-up time with many keys. Values are 300 bytes, so that a million fit on a small disk.
func (b *bench) size() error {
	fmt.Print("\n| keys | store | anonymous memory after a start | start until it answers | file |\n|---|---|---|---|---|\n")
	return b.each(func(title, endpoint string) error {
		if strings.HasPrefix(endpoint, "kine") {
			return nil // filling it takes too long
		}
		dir := filepath.Join(b.dir, "size-"+title)
		have := 0
		for _, n := range []int{10_000, 100_000, 1_000_000} {
			s, err := start(endpoint, dir)
			if err != nil {
				return err
			}
			if err := fill(s.client, have, n); err != nil {
				return err
			}
			have = n
			if err := s.stop(); err != nil {
				return err
			}
			if s, err = start(endpoint, dir); err != nil {
				return err
			}
			m, err := s.memory()
			if err != nil {
				return err
			}
			st, err := s.client.Status(context.Background(), s.client.Endpoints()[0])
			if err != nil {
				return err
			}
			fmt.Printf("| %d | %s | %.1f MiB | %v | %.0f MiB |\n", n, title, float64(m)/(1<<20), s.took.Round(time.Millisecond), float64(st.DbSize)/(1<<20))
			if err := s.stop(); err != nil {
				return err
			}
		}
		return os.RemoveAll(dir)
	})
}

func fill(c *clientv3.Client, from, to int) error {
	l := &loader{c: c}
	small := strings.Repeat("x", 300)
	var wg sync.WaitGroup
	const workers = 128
	errs := make(chan error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := from + w; i < to; i += workers {
				// A name like a pod's: the random part first to be unlike the order of creation.
				if _, err := l.create(fmt.Sprintf("/registry/pods/namespace-%02d/deployment-%08x", i%50, uint32(i)*2654435761), small); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// compaction is the latency of writes while a hundred thousand old revisions are deleted.
func (b *bench) compaction() error {
	fmt.Print("\n| update, 8 writers: per second, p50 / p99 in ms | before | while compacting 50 000 revisions |\n|---|---|---|\n")
	return b.each(func(title, endpoint string) error {
		if endpoint == "kine-sqlite://?NORMAL" {
			return nil
		}
		s, err := start(endpoint, filepath.Join(b.dir, "compaction-"+title))
		if err != nil {
			return err
		}
		l := &loader{c: s.client, prefix: "/registry/bench/", revs: make([]int64, writers+1)}
		began := time.Now()
		var rev int64
		for rev < 50_000 && time.Since(began) < 8*b.phase {
			if _, err := run(b.phase/4, writers, l.update); err != nil {
				return err
			}
			rev = l.revs[0]
		}
		before, err := run(b.phase, 8, l.update)
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.client.Compact(context.Background(), l.revs[0])
			done <- err
		}()
		during, err := run(b.phase, 8, l.update)
		if err != nil {
			return err
		}
		if err := <-done; err != nil {
			return err
		}
		fmt.Printf("| %s (%d revisions) | %s | %s |\n", title, rev, before, during)
		return s.stop()
	})
}

// loop is a file system of its own, whose device counts what is written to it.
type loop struct{ dir, image, device string }

func newLoop(dir string) (*loop, error) {
	l := &loop{dir: filepath.Join(dir, "disk"), image: filepath.Join(dir, "disk.img")}
	for _, args := range [][]string{
		{"truncate", "-s", "2G", l.image},
		{"mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", l.image},
		{"mkdir", "-p", l.dir},
		{"mount", "-o", "loop,noatime", l.image, l.dir},
	} {
		if err := command(args...); err != nil {
			return nil, err
		}
	}
	out, err := exec.Command("losetup", "-n", "-O", "NAME", "-j", l.image).Output()
	l.device = filepath.Base(strings.TrimSpace(string(out)))
	syscall.Sync()
	return l, err
}

func (l *loop) close() error {
	if err := command("umount", l.dir); err != nil {
		return err
	}
	return os.Remove(l.image)
}

// written returns the bytes that reached the device.
func (l *loop) written() (int64, error) {
	data, err := os.ReadFile(filepath.Join("/sys/block", l.device, "stat"))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(data))
	sectors, err := strconv.ParseInt(f[6], 10, 64)
	return sectors * 512, err
}

func command(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// bytes is what an update writes to the disk, file system journal, checkpoints and compactions included.
func (b *bench) bytes() error {
	fmt.Print("\n| bytes written to the disk for an update | 400 bytes, 1 writer | 1.5 KiB, 1 writer | 1.5 KiB, 32 writers |\n|---|---|---|---|\n")
	return b.each(func(title, endpoint string) error {
		fmt.Printf("| %s", title)
		for _, c := range []struct{ size, workers int }{{400, 1}, {1536, 1}, {1536, writers}} {
			n, err := b.bytesOf(endpoint, c.size, c.workers)
			if err != nil {
				return err
			}
			fmt.Printf(" | %d", n)
		}
		fmt.Println(" |")
		return nil
	})
}

func (b *bench) bytesOf(endpoint string, size, workers int) (int64, error) {
	const updates = 4000
	lo, err := newLoop(b.dir)
	if err != nil {
		return 0, err
	}
	s, err := start(endpoint, filepath.Join(lo.dir, "db"))
	if err != nil {
		return 0, err
	}
	l := &loader{c: s.client, prefix: "/registry/leases/", revs: make([]int64, writers+1)}
	// Only the change is counted: not what a new store costs once.
	for w := range workers {
		if err := l.update(w, 0); err != nil {
			return 0, err
		}
	}
	syscall.Sync()
	before, err := lo.written()
	if err != nil {
		return 0, err
	}
	errs := make(chan error, workers)
	var wg sync.WaitGroup
	full := value
	for w := range workers {
		wg.Go(func() {
			key := l.key(w, 999999)
			for i := range updates / workers {
				r, err := s.client.Txn(context.Background()).If(clientv3.Compare(clientv3.ModRevision(key), "=", l.revs[w])).
					Then(clientv3.OpPut(key, full[:size])).Else(clientv3.OpGet(key)).Commit()
				if err == nil && w == 0 && i%(500/workers+1) == 500/workers {
					_, err = s.client.Compact(context.Background(), r.Header.Revision-100)
				}
				if err != nil {
					errs <- err
					return
				}
				l.revs[w] = r.Header.Revision
			}
		})
	}
	wg.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return 0, err
	}
	if err := s.stop(); err != nil {
		return 0, err
	}
	syscall.Sync()
	after, err := lo.written()
	if err != nil {
		return 0, err
	}
	return (after - before) / updates, lo.close()
}
