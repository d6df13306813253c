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

	"github.com/knarr-io/knarr/tests/lab"
)

const (
	// settle is how long a node that is ready is left alone before it counts as
	// idle: controllers finish their first rounds.
	settle = 45 * time.Second
	// clockTicks is USER_HZ, the unit of CPU time in /proc, a constant of Linux.
	clockTicks = 100
	mib        = 1 << 20
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
	files, err := s.files()
	if err != nil {
		return r, err
	}
	r.compressed, err = compressed(ctx, files)
	return r, err
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
	ticks := 0
	for pid, p := range after {
		ticks += p.ticks - before[pid].ticks
		r.pss += p.pss
		r.anonymous += p.anonymous
	}
	r.cpu = 100 * float64(ticks) / clockTicks / time.Since(begin).Seconds()
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

// process is one process's share: CPU time and memory.
type process struct {
	ticks          int
	pss, anonymous float64 // MiB
}

// snapshot reads every process of a host that is neither its init nor in a pod.
func snapshot(h *lab.Host) (map[int]process, error) {
	pids, err := h.PIDs()
	if err != nil {
		return nil, err
	}
	found := map[int]process{}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || strings.Contains(string(cgroup), "kubepods") {
			continue // gone, or a pod's
		}
		p, err := readProcess(dir)
		if err != nil {
			continue // gone meanwhile
		}
		found[pid] = p
	}
	return found, nil
}

func readProcess(dir string) (process, error) {
	var p process
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, err
	}
	// proc_pid_stat(5): utime and stime are fields 14 and 15; what comes before
	// the last parenthesis is the name.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return p, fmt.Errorf("read CPU time: %w", err)
		}
		p.ticks += n
	}
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(rollup)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kib); n == 1 {
			p.pss = kib / 1024
		}
		if n, _ := fmt.Sscanf(line, "Pss_Anon: %f kB", &kib); n == 1 {
			p.anonymous = kib / 1024
		}
	}
	return p, nil
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
