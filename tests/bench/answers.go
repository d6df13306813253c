package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// metricsOfDNS makes the ingress controller start and gives it something to answer with that every cluster has.
const metricsOfDNS = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: bench, namespace: kube-system}
spec:
  rules:
  - http:
      paths:
      - {path: /metrics, pathType: Exact, backend: {service: {name: kube-dns, port: {number: 9153}}}}
`

const (
	clusterDNS = "10.43.0.10:53"
	// answerLimit is how long names and ingress may take before the bench gives up.
	answerLimit = 2 * time.Minute
	answerPoll  = 20 * time.Millisecond
)

// answering returns the medians of the time from the first exec until a name of the cluster is resolved, and until the
// ingress controller answers another host with what a pod says. The hosts have no way out of their LAN.
func answering(ctx context.Context, l *lab.Lab, k *knarr, starts int) (names, ingress time.Duration, err error) {
	visitor, err := l.AddHost(ctx, "visitor", lab.Options{})
	if err != nil {
		return 0, 0, err
	}
	var a, b []time.Duration
	for i := range starts {
		fmt.Fprintf(os.Stderr, "%s: names and ingress, start %d of %d\n", k.name(), i+1, starts)
		x, y, err := answeringOnce(ctx, l, k, visitor, i)
		if err != nil {
			return 0, 0, fmt.Errorf("wait for names and ingress: %w", err)
		}
		a, b = append(a, x), append(b, y)
	}
	return median(a), median(b), nil
}

func answeringOnce(ctx context.Context, l *lab.Lab, k *knarr, visitor *lab.Host, i int) (names, ingress time.Duration, err error) {
	h, err := l.AddHost(ctx, "answers"+strconv.Itoa(i), k.host())
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, h.Destroy()) }()
	if err := h.WriteFile(filepath.Join(cluster.DataDir, "server/manifests/bench.yaml"), []byte(metricsOfDNS), 0o600); err != nil {
		return 0, 0, err
	}
	s := &cluster.Server{Host: h, Program: cluster.Program, Args: k.args}
	begin := time.Now()
	if err := s.Start(); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.DialContext(ctx, network, clusterDNS)
	}}
	if err := poll(ctx, func(ctx context.Context) error {
		_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		return err
	}); err != nil {
		return 0, 0, err
	}
	names = time.Since(begin)
	client := visitor.HTTPClient(time.Second)
	defer client.CloseIdleConnections()
	err = poll(ctx, func(context.Context) error {
		r, err := client.Get("http://" + h.Addr().String() + "/metrics")
		if err != nil {
			return err
		}
		if r.StatusCode != http.StatusOK {
			err = fmt.Errorf("the ingress answers %s", r.Status)
		}
		return errors.Join(err, r.Body.Close())
	})
	return names, time.Since(begin), err
}

// poll tries until it works or ctx ends, and then returns what was wrong last.
func poll(ctx context.Context, try func(context.Context) error) error {
	tick := time.NewTicker(answerPoll)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, time.Second)
		err := try(once)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
