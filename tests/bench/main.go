// Command bench measures knarr beside plain upstream Kubernetes on test hosts
// of this machine, one after the other, and prints one table. It is started by
// the script run beside it, and measures nothing but idle single nodes: how
// soon they are there, and what they cost.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
)

func main() { os.Exit(cluster.Main("bench", run)) }

// options are the command line.
type options struct {
	upstream string        // directory of plain upstream's programs
	root     string        // of the checkout
	starts   int           // first starts to take the median of
	idle     time.Duration // over which CPU time is counted
}

func run(ctx context.Context) (err error) {
	var o options
	flag.StringVar(&o.upstream, "upstream", "", "directory made by tests/bench/upstream/build")
	flag.IntVar(&o.starts, "starts", 3, "first starts, each on an empty host, of which the median counts")
	seconds := flag.Int("seconds", 60, "seconds of idleness over which CPU time is counted")
	flag.Parse()
	o.idle = time.Duration(*seconds) * time.Second
	if o.root, err = os.Getwd(); err != nil {
		return err
	}
	return cluster.InLab(ctx, func(l *lab.Lab, binary string) error { return o.measure(ctx, l, binary) })
}

func (o options) measure(ctx context.Context, l *lab.Lab, binary string) error {
	archives, err := images.Build(ctx, l.Dir())
	if err != nil {
		return err
	}
	whole := &knarr{label: "knarr", binary: binary}
	peers := []subject{&upstream{dir: o.upstream, script: o.root + "/tests/bench/upstream", archives: archives},
		&knarr{label: "knarr-alone", binary: binary, args: alone()}, whole}
	var results []result
	for _, p := range peers {
		r, err := measure(ctx, l, p, o)
		if err != nil {
			return fmt.Errorf("measure %s: %w", p.name(), err)
		}
		results = append(results, r)
	}
	names, ingress, err := answering(ctx, l, whole, o.starts)
	if err != nil {
		return err
	}
	if err := compress(ctx, peers, results); err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Printf("%d first starts each, idle for %v; load average at the end %s\n\n", o.starts, o.idle, strings.Join(strings.Fields(string(load))[:3], " "))
	fmt.Print(table(results[0], results[1:]))
	fmt.Printf("\nknarr with everything, from exec on an empty data-dir: names answered after %.2f s, names and ingress after %.2f s\n", names.Seconds(), ingress.Seconds())
	return nil
}
