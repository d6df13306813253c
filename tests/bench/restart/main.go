// Command restart measures for how long the API is away while a server with many pods stops and starts again, asked to
// stop and killed, and prints one table. Its pods run on, and it looks that they are the same after each start.
//
//	sudo go run ./tests/bench/restart [-pods 100] [-rounds 3]
//
// It needs dist/knarr, or KNARR_BIN, and some 2 GiB of memory for the pods. It is no part of CI.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
)

const (
	// patience is how long the pods may take to run, and the API to be back.
	patience = 10 * time.Minute
	// tick is how often the API is asked, so the finest difference that counts.
	tick = 10 * time.Millisecond
)

func main() { os.Exit(cluster.Main("restart", run)) }

func run(ctx context.Context) error {
	pods := flag.Int("pods", 100, "pods that run meanwhile, at most 105")
	rounds := flag.Int("rounds", 3, "restarts of each kind, of which the median counts")
	flag.Parse()
	return cluster.InLab(ctx, func(l *lab.Lab, binary string) error {
		b, err := begin(ctx, l, binary, *pods)
		if err != nil {
			return err
		}
		fmt.Printf("| restart of a server with %d pods | API away for |\n|---|---|\n", *pods)
		for _, way := range []struct {
			name string
			stop func() error
		}{
			{"asked to stop, started when it has ended", func() error { _, err := b.server.Stop(ctx); return err }},
			{"killed, started at once", b.kill},
		} {
			var away []time.Duration
			for range *rounds {
				d, err := b.restart(ctx, way.stop)
				if err != nil {
					return fmt.Errorf("%s: %w\n%s", way.name, err, b.server.LogTail(40))
				}
				away = append(away, d)
			}
			slices.Sort(away)
			fmt.Printf("| %s | %.2f s |\n", way.name, away[len(away)/2].Seconds())
		}
		return nil
	})
}

// bench is a server with pods.
type bench struct {
	server *cluster.Server
	client *cluster.Client
	pods   int
	// started is by the names of pods when their containers started.
	started map[string]metav1.Time
}

const workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "%s", imagePullPolicy: Never, args: [http, --port=8080]}]
`

func begin(ctx context.Context, l *lab.Lab, binary string, pods int) (*bench, error) {
	archives, err := images.Build(ctx, l.Dir())
	if err != nil {
		return nil, err
	}
	host, err := l.AddHost(ctx, "many", lab.Options{})
	if err != nil {
		return nil, err
	}
	s, err := cluster.New(host, false, binary, archives)
	if err != nil {
		return nil, err
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	client, err := s.WaitNode(ctx)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(workload, pods, images.Server)
	out, err := host.Run(ctx, lab.Cmd{Args: []string{s.Program, "kubectl", "apply", "-f", "-"}, Stdin: strings.NewReader(text)})
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	b := &bench{server: s, client: client, pods: pods}
	fmt.Fprintln(os.Stderr, "waiting for "+strconv.Itoa(pods)+" pods")
	return b, b.until(ctx, func(ctx context.Context) (err error) {
		b.started, err = b.running(ctx)
		return err
	})
}

// running returns when the pods' containers started, all of which must run.
func (b *bench) running(ctx context.Context) (map[string]metav1.Time, error) {
	list, err := b.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	started := map[string]metav1.Time{}
	for _, p := range list.Items {
		if s := p.Status.ContainerStatuses; p.Status.Phase == corev1.PodRunning && len(s) == 1 && s[0].State.Running != nil {
			started[p.Name] = s[0].State.Running.StartedAt
		}
	}
	if len(started) != b.pods {
		return nil, fmt.Errorf("%d of %d pods run", len(started), b.pods)
	}
	return started, nil
}

func (b *bench) until(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w\n%s", err, b.server.LogTail(40))
		case <-time.After(tick):
		}
	}
}

func (b *bench) kill() error {
	if err := b.server.Process().Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-b.server.Process().Done()
	return nil
}

// restart returns for how long the API did not answer once all was ready, and looks that no container was started again.
func (b *bench) restart(ctx context.Context, stop func() error) (time.Duration, error) {
	ctx, end := context.WithTimeout(ctx, patience)
	defer end()
	type outage struct {
		time.Duration
		err error
	}
	if err := b.until(ctx, func(ctx context.Context) error { _, err := b.server.Command(ctx, "status"); return err }); err != nil {
		return 0, err
	}
	watched := make(chan outage, 1)
	if err := b.ask(ctx); err != nil {
		return 0, err
	}
	go func() {
		d, err := b.watch(ctx)
		watched <- outage{d, err}
	}()
	if err := errors.Join(stop(), b.server.Start()); err != nil {
		return 0, err
	}
	o := <-watched
	if o.err != nil {
		return 0, o.err
	}
	return o.Duration, b.until(ctx, func(ctx context.Context) error {
		now, err := b.running(ctx)
		if err != nil {
			return err
		}
		for name, t := range now {
			if before := b.started[name]; !t.Equal(&before) {
				return fmt.Errorf("the container of pod %s was started again", name)
			}
		}
		return nil
	})
}

// watch returns the time from the last answer before the API goes away to the first after.
func (b *bench) watch(ctx context.Context) (time.Duration, error) {
	last, away := time.Now(), false
	for {
		switch err := b.ask(ctx); {
		case err != nil:
			away = true
		case away:
			return time.Since(last), nil
		default:
			last = time.Now()
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(tick):
		}
	}
}

// ask reads an object, with credentials.
func (b *bench) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := b.client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
	return err
}
