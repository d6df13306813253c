// Command ingress measures what the ingress controller costs: requests per second
// and their latency through it to a small server in a pod, beside the same server
// by NodePort, in turns on the same cluster; and what the node costs while nobody
// asks, with the ingress controller disabled, at rest, and running.
//
//	sudo go run ./tests/bench/ingress [-seconds 10] [-rounds 3] [-connections 32] [-idle 30]
//
// It needs dist/knarr, or KNARR_BIN. Client, ingress controller and server share
// the machine, so the figures are for comparing the rows with one another.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
)

// patience is how long something of the cluster may take to come about.
const patience = 3 * time.Minute

func main() { os.Exit(cluster.Main("ingress", run)) }

// options are the command line.
type options struct {
	rounds, connections int
	span, idle          time.Duration
}

func run(ctx context.Context) error {
	seconds := flag.Int("seconds", 10, "seconds of load for each turn")
	rounds := flag.Int("rounds", 3, "turns of each way")
	connections := flag.Int("connections", 32, "connections, each with one request at a time")
	idle := flag.Int("idle", 30, "seconds of idleness over which CPU time is counted")
	flag.Parse()
	o := options{*rounds, *connections, time.Duration(*seconds) * time.Second, time.Duration(*idle) * time.Second}
	return cluster.InLab(ctx, func(l *lab.Lab, binary string) error { return o.measure(ctx, l, binary) })
}

func (o options) measure(ctx context.Context, l *lab.Lab, binary string) error {
	archives, err := images.Build(ctx, l.Dir())
	if err != nil {
		return err
	}
	visitor, err := l.AddHost(ctx, "visitor", lab.Options{})
	if err != nil {
		return err
	}
	without, err := begin(ctx, l, "without", visitor, binary, archives, "--disable=traefik")
	if err != nil {
		return err
	}
	if err := without.watch(ctx, "disabled", o.idle); err != nil {
		return err
	}
	if err := without.server.Host.Destroy(); err != nil {
		return err
	}
	b, err := begin(ctx, l, "with", visitor, binary, archives)
	if err != nil {
		return err
	}
	if err := b.watch(ctx, "at rest", o.idle); err != nil {
		return err
	}
	took, err := b.use(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("first answer after the first Ingress: %v\n", took.Round(time.Millisecond))
	if err := b.watch(ctx, "running", o.idle); err != nil {
		return err
	}
	return b.compare(ctx, o.rounds, o.connections, o.span)
}

// bench is a cluster with a server, and a host beside it that asks.
type bench struct {
	server  *cluster.Server
	visitor *lab.Host
}

// begin starts knarr on a host called name, and the server that is asked in a pod there.
func begin(ctx context.Context, l *lab.Lab, name string, visitor *lab.Host, binary string, archives []string, args ...string) (*bench, error) {
	host, err := l.AddHost(ctx, name, lab.Options{})
	if err != nil {
		return nil, err
	}
	s, err := cluster.New(host, false, binary, archives)
	if err != nil {
		return nil, err
	}
	s.Args = args
	if err := s.Start(); err != nil {
		return nil, err
	}
	if _, err := s.WaitNode(ctx); err != nil {
		return nil, err
	}
	b := &bench{s, visitor}
	return b, errors.Join(b.apply(ctx, workload), b.until(ctx, func() error { return b.answers(nodePort, "") }))
}

// nodePort is where the server is reached without the ingress controller.
const nodePort = 30080

const workload = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 8080, nodePort: 30080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: ` + images.Server + `
        imagePullPolicy: Never
        args: [http, --port=8080]
`

const ingress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 8080}}}}
`

func (b *bench) apply(ctx context.Context, text string) error {
	out, err := b.server.Host.Run(ctx, lab.Cmd{Args: []string{b.server.Program, "kubectl", "apply", "-f", "-"}, Stdin: strings.NewReader(text)})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// until tries again until it works.
func (b *bench) until(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w\n%s", err, b.server.LogTail(40))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// use makes the first Ingress and returns how long it took until it served.
func (b *bench) use(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	if err := b.apply(ctx, ingress); err != nil {
		return 0, err
	}
	err := b.until(ctx, func() error { return b.answers(80, "web.example.com") })
	return time.Since(start), err
}

// compare has both ways take turns.
func (b *bench) compare(ctx context.Context, rounds, connections int, span time.Duration) error {
	ways := []struct {
		name, host string
		port       int
		all        tally
	}{{name: "NodePort", port: nodePort}, {name: "ingress", host: "web.example.com", port: 80}}
	for range rounds {
		for i := range ways {
			w := &ways[i]
			t, err := b.load(ctx, w.port, w.host, connections, span)
			if err != nil {
				return fmt.Errorf("by %s: %w", w.name, err)
			}
			w.all.add(t)
		}
	}
	fmt.Printf("%d connections, %d turns of %v each\n\n| way | requests/s | p50 | p99 |\n|---|---|---|---|\n", connections, rounds, span)
	for _, w := range ways {
		fmt.Printf("| %s | %.0f | %v | %v |\n", w.name, w.all.perSecond(), w.all.quantile(0.5), w.all.quantile(0.99))
	}
	return nil
}
