package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/knarr-io/knarr/tests/bench/usage"
	"github.com/knarr-io/knarr/tests/lab"
)

const (
	// settle is how long a node that is ready is left alone before it counts as
	// idle: controllers finish their first rounds.
	settle = 45 * time.Second
	mib    = 1 << 20
)

// result is a column of the table.
type result struct {
	name           string
	readyz, ready  time.Duration
	pss, anonymous float64 // MiB
	cpu            float64 // percent of a core
	compressed     float64 // MiB
	disk           float64 // MiB
}

// measure takes the median of several first starts, then looks at the last of
// these nodes while it is idle.
func measure(ctx context.Context, l *lab.Lab, s subject, o options) (result, error) {
	r := result{name: s.name()}
	var readyz, ready []time.Duration
	for i := range o.starts {
		h, err := l.AddHost(ctx, s.name()+strconv.Itoa(i), s.host())
		if err != nil {
			return r, err
		}
		fmt.Fprintf(os.Stderr, "%s: start %d of %d\n", s.name(), i+1, o.starts)
		a, b, err := s.start(ctx, h)
		if err != nil {
			return r, err
		}
		readyz, ready = append(readyz, a), append(ready, b)
		if i == o.starts-1 {
			fmt.Fprintf(os.Stderr, "%s: idle for %v\n", s.name(), settle+o.idle)
			if err := r.watch(ctx, h, o.idle); err != nil {
				return r, err
			}
			if r.disk, err = s.onDisk(ctx, h); err != nil {
				return r, err
			}
		}
		if err := h.Destroy(); err != nil {
			return r, err
		}
	}
	r.readyz, r.ready = median(readyz), median(ready)
	return r, nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// watch fills in what an idle node costs.
func (r *result) watch(ctx context.Context, h *lab.Host, span time.Duration) error {
	if err := wait(ctx, settle); err != nil {
		return err
	}
	before, err := snapshot(h)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := wait(ctx, span); err != nil {
		return err
	}
	after, err := snapshot(h)
	if err != nil {
		return err
	}
	var cpu time.Duration
	for pid, p := range after {
		cpu += p.CPU - before[pid].CPU
		r.pss += p.PSS
		r.anonymous += p.Anonymous
	}
	r.cpu = 100 * cpu.Seconds() / time.Since(begin).Seconds()
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// snapshot reads every process of a host that is neither its init nor in a pod.
func snapshot(h *lab.Host) (map[int]usage.Process, error) {
	pids, err := h.PIDs()
	if err != nil {
		return nil, err
	}
	found := map[int]usage.Process{}
	for _, pid := range pids {
		cgroup, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
		if err != nil || strings.Contains(string(cgroup), "kubepods") {
			continue // gone, or a pod's
		}
		p, err := usage.Read(pid)
		if err != nil {
			continue // gone meanwhile
		}
		found[pid] = p
	}
	return found, nil
}

// compress fills in the sizes, after all that is measured on an idle machine.
func compress(ctx context.Context, subjects []subject, results []result) error {
	known := map[string]float64{}
	for i, s := range subjects {
		files, err := s.files()
		if err != nil {
			return err
		}
		key := strings.Join(files, ":")
		if known[key] == 0 {
			if known[key], err = compressed(ctx, files); err != nil {
				return err
			}
		}
		results[i].compressed = known[key]
	}
	return nil
}

// compressed is the size in MiB of files packed and compressed as a release is.
func compressed(ctx context.Context, files []string) (float64, error) {
	args := []string{"-c", `tar -C / -cf - "$@" | zstd -q -19 --long=26 -T0 -c | wc -c`, "pack"}
	for _, f := range files {
		args = append(args, strings.TrimPrefix(f, "/"))
	}
	out, err := exec.CommandContext(ctx, "bash", args...).Output()
	if err != nil {
		return 0, fmt.Errorf("compress: %w", err)
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return n / mib, err
}

// table has a column for each side, and its ratio to base.
func table(base result, others []result) string {
	var b strings.Builder
	row := func(what, unit, format string, of func(result) float64) {
		fmt.Fprintf(&b, "%-34s %12s", what, fmt.Sprintf(format+" "+unit, of(base)))
		for _, it := range others {
			fmt.Fprintf(&b, " %12s %5.2f", fmt.Sprintf(format+" "+unit, of(it)), of(it)/of(base))
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%-34s %12s", "", base.name)
	for _, it := range others {
		fmt.Fprintf(&b, " %12s %5s", it.name, "ratio")
	}
	b.WriteByte('\n')
	row("exec to /readyz, empty data-dir", "s", "%.2f", func(r result) float64 { return r.readyz.Seconds() })
	row("exec to node Ready, empty data-dir", "s", "%.2f", func(r result) float64 { return r.ready.Seconds() })
	row("memory, idle: PSS", "MiB", "%.0f", func(r result) float64 { return r.pss })
	row("  of which anonymous", "MiB", "%.0f", func(r result) float64 { return r.anonymous })
	row("CPU, idle, of a core", "%%", "%.2f", func(r result) float64 { return r.cpu })
	row("size compressed", "MiB", "%.1f", func(r result) float64 { return r.compressed })
	row("size on disk, helpers included", "MiB", "%.1f", func(r result) float64 { return r.disk })
	return b.String()
}
