package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
)

const (
	// program is this program on a test host.
	program = "/usr/local/bin/network"
	port    = "5201"
	// patience is how long one condition may take.
	patience = 3 * time.Minute
)

// bench is two test hosts.
type bench struct {
	lab      *lab.Lab
	binary   string
	archives []string
	hosts    [2]*lab.Host
}

// fresh makes both hosts anew, with this program on them.
func (b *bench) fresh(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i, name := range []string{"a", "b"} {
		if b.hosts[i] != nil {
			if err := b.hosts[i].Destroy(); err != nil {
				return err
			}
		}
		if b.hosts[i], err = b.lab.AddHost(ctx, name, lab.Options{}); err != nil {
			return err
		}
		if err := b.hosts[i].CopyIn(self, program, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// row is a line of the table.
type row struct {
	name      string
	mtu       string
	bits      float64
	roundTrip float64 // microseconds
}

// compare measures the bare cable and then each backend.
func (b *bench) compare(ctx context.Context, backends []string, span time.Duration) error {
	if err := b.fresh(ctx); err != nil {
		return err
	}
	bare, err := b.measure(ctx, "bare cable", nil, nil, b.hosts[1].Addr().String(), span)
	if err != nil {
		return err
	}
	rows := []row{bare}
	for _, backend := range backends {
		if err := b.fresh(ctx); err != nil {
			return err
		}
		c, err := b.cluster(ctx, "--flannel-backend="+backend)
		if err != nil {
			return err
		}
		r, err := b.measure(ctx, backend, c.within(0), c.within(1), c.addrs[1], span)
		if err != nil {
			return err
		}
		rows = append(rows, r)
		if err := c.stop(ctx); err != nil {
			return err
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Printf("%s, one TCP stream of %v each; load average at the end %s\n\n", time.Now().Format(time.DateOnly), span, strings.Join(strings.Fields(string(load))[:3], " "))
	fmt.Printf("| between two hosts | MTU | throughput, Gbit/s | of the bare cable | round trip, µs |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Printf("| %s | %s | %.1f | %.0f %% | %.0f |\n", r.name, r.mtu, r.bits/1e9, 100*r.bits/bare.bits, r.roundTrip)
	}
	return nil
}

// measure sends from the first host to the second, each end by way of the command that enters its namespace.
func (b *bench) measure(ctx context.Context, name string, from, to []string, address string, span time.Duration) (row, error) {
	r := row{name: name}
	server, err := b.hosts[1].Start(lab.Cmd{Args: append(to[:len(to):len(to)], program, "-serve", ":"+port)})
	if err != nil {
		return r, err
	}
	defer server.Kill() // with its host, if not before
	command := append(from[:len(from):len(from)], program, "-send", address+":"+port, "-for", span.String())
	limited, cancel := context.WithTimeout(ctx, patience+span)
	defer cancel()
	err = lab.Poll(limited, time.Second, func() error {
		out, err := b.hosts[0].Run(limited, lab.Cmd{Args: command})
		if err == nil {
			_, err = fmt.Sscan(out, &r.bits, &r.roundTrip)
		}
		return err
	})
	if err != nil {
		return r, fmt.Errorf("measure %s: %w", name, err)
	}
	r.mtu, err = b.hosts[0].Run(ctx, lab.Cmd{Args: append(from[:len(from):len(from)], "cat", "/sys/class/net/eth0/mtu")})
	r.mtu = strings.TrimSpace(r.mtu)
	return r, err
}

// running is a cluster of the two hosts with a pod on each.
type running struct {
	servers [2]*cluster.Server
	client  *cluster.Client
	addrs   [2]string
	nets    [2]string
}

func (b *bench) cluster(ctx context.Context, args ...string) (*running, error) {
	c := &running{}
	for i, h := range b.hosts {
		s, err := cluster.New(h, false, b.binary, b.archives)
		if err != nil {
			return nil, err
		}
		c.servers[i] = s
	}
	c.servers[0].Args = args
	if err := c.servers[0].Start(); err != nil {
		return nil, err
	}
	var err error
	if c.client, err = c.servers[0].WaitNode(ctx); err != nil {
		return nil, err
	}
	line, err := c.servers[0].Command(ctx, "token", "join-command")
	if err != nil {
		return nil, err
	}
	c.servers[1].Role, c.servers[1].Args = "agent", strings.Fields(line)[2:]
	if err := c.servers[1].Start(); err != nil {
		return nil, err
	}
	for i, h := range b.hosts {
		if err := c.pod(ctx, i, h); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// pod runs a pod on a host and finds its network namespace.
func (c *running) pod(ctx context.Context, i int, h *lab.Host) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods := c.client.CoreV1().Pods(metav1.NamespaceDefault)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: h.Name()}, Spec: corev1.PodSpec{
		NodeName: h.Name(), TerminationGracePeriodSeconds: ptr.To[int64](1),
		Containers: []corev1.Container{{Name: "main", Image: images.Busybox, Command: []string{"sh", "-c", "exec testserver http"}}},
	}}
	return lab.Poll(ctx, 200*time.Millisecond, func() error {
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		now, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now.Status.Phase != corev1.PodRunning || now.Status.PodIP == "" {
			return fmt.Errorf("pod %s is %s", p.Name, now.Status.Phase)
		}
		c.addrs[i] = now.Status.PodIP
		out, err := h.Exec(ctx, "sh", "-c", "for n in $(ls /run/netns); do ip -n $n -o addr | grep -q 'inet "+now.Status.PodIP+"/' && echo $n; done; true")
		if c.nets[i] = strings.TrimSpace(out); err == nil && c.nets[i] == "" {
			err = fmt.Errorf("no network namespace has the address %s", now.Status.PodIP)
		}
		return err
	})
}

// within is how a command is run in the pod's network on host i.
func (c *running) within(i int) []string { return []string{"ip", "netns", "exec", c.nets[i]} }

func (c *running) stop(ctx context.Context) error {
	for _, s := range []*cluster.Server{c.servers[1], c.servers[0]} {
		if _, err := s.Stop(ctx); err != nil {
			return err
		}
	}
	return nil
}
