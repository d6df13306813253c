package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// tally is how long requests took, and how long all was going on.
type tally struct {
	delays []time.Duration
	took   time.Duration
}

func (t *tally) add(u tally) {
	t.delays = append(t.delays, u.delays...)
	t.took += u.took
}

func (t *tally) perSecond() float64 { return float64(len(t.delays)) / t.took.Seconds() }

func (t *tally) quantile(q float64) time.Duration {
	if len(t.delays) == 0 {
		return 0
	}
	slices.Sort(t.delays)
	return t.delays[int(float64(len(t.delays)-1)*q)].Round(10 * time.Microsecond)
}

// load asks over so many connections for so long.
func (b *bench) load(ctx context.Context, port int, host string, connections int, span time.Duration) (tally, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all := make([]tally, connections)
	begin := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i := range connections {
		group.Go(func() error {
			// A transport for each, so that each keeps to its one connection.
			t := &http.Transport{DialContext: b.visitor.DialContext, MaxIdleConnsPerHost: 1}
			defer t.CloseIdleConnections()
			for time.Since(begin) < span {
				start := time.Now()
				if err := b.ask(ctx, t, port, host); err != nil {
					return err
				}
				all[i].delays = append(all[i].delays, time.Since(start))
			}
			return nil
		})
	}
	err := group.Wait()
	sum := tally{took: time.Since(begin)}
	for _, t := range all {
		sum.delays = append(sum.delays, t.delays...)
	}
	return sum, err
}

// ask makes one request.
func (b *bench) ask(ctx context.Context, t http.RoundTripper, port int, host string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/hostname", b.server.Host.Addr(), port), nil)
	if err != nil {
		return err
	}
	r.Host = host
	answer, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer is %s", answer.Status)
	}
	return nil
}

func (b *bench) answers(port int, host string) error {
	t := &http.Transport{DialContext: b.visitor.DialContext, DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return b.ask(ctx, t, port, host)
}

// settle is how long the node is left alone before it counts as idle.
const settle = 30 * time.Second

// usage is what processes have used and hold.
type usage struct {
	ticks          int
	pss, anonymous float64 // MiB
}

// watch prints what knarr, and Traefik by itself, cost while nobody asks for anything.
func (b *bench) watch(ctx context.Context, state string, span time.Duration) error {
	if err := pause(ctx, settle); err != nil {
		return err
	}
	before, err := b.snapshot()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := pause(ctx, span); err != nil {
		return err
	}
	after, err := b.snapshot()
	if err != nil {
		return err
	}
	for _, who := range []string{"knarr", "traefik"} {
		if u, ok := after[who]; ok {
			fmt.Printf("ingress controller %s, %s: PSS %.1f MiB, anonymous %.1f MiB, CPU %.2f %% of a core\n", state, who,
				u.pss, u.anonymous, float64(u.ticks-before[who].ticks)/time.Since(begin).Seconds())
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// snapshot reads the processes of the node by the name they were started under.
func (b *bench) snapshot() (map[string]usage, error) {
	pids, err := b.server.Host.PIDs()
	if err != nil {
		return nil, err
	}
	found := make(map[string]usage)
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // gone meanwhile
		}
		name, _, _ := strings.Cut(string(command), "\x00")
		u, err := read(dir)
		if err != nil {
			continue
		}
		sum := found[filepath.Base(name)]
		found[filepath.Base(name)] = usage{sum.ticks + u.ticks, sum.pss + u.pss, sum.anonymous + u.anonymous}
	}
	return found, nil
}

func read(dir string) (u usage, err error) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// proc_pid_stat(5): utime and stime are fields 14 and 15, in ticks of 10 ms; what comes before the last parenthesis
	// is the name.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return u, err
		}
		u.ticks += n
	}
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(rollup)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "Pss: %f kB", &kib); err == nil {
			u.pss = kib / 1024
		} else if _, err := fmt.Sscanf(line, "Anonymous: %f kB", &kib); err == nil {
			u.anonymous = kib / 1024
		}
	}
	return u, nil
}
