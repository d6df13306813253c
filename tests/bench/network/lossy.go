package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

// attempt is one kind of thing that is tried over and over.
type attempt struct {
	name string
	try  func(ctx context.Context) error

	done, failed int
	slowest      time.Duration
	last         error
}

// attemptLimit is how long one may take: what it is given up after is what a person gives up after.
const attemptLimit = 30 * time.Second

// lossy has a cluster of two nodes lose packets in both directions, and prints what worked how often.
func (b *bench) lossy(ctx context.Context, percent int, span time.Duration) error {
	if err := b.fresh(ctx); err != nil {
		return err
	}
	c, err := b.cluster(ctx)
	if err != nil {
		return err
	}
	for _, h := range b.hosts {
		// Not tc's netem, which not every kernel has.
		rules := fmt.Sprintf("table inet loss {\nchain in { type filter hook prerouting priority -400; iifname eth0 numgen random mod 100 < %d drop; }\n}\n", percent)
		if _, err := h.Run(ctx, lab.Cmd{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(rules)}); err != nil {
			return fmt.Errorf("lose packets: %w", err)
		}
	}
	knarr := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.servers[0].Command(ctx, args...)
			return err
		}
	}
	attempts := []*attempt{
		{name: "node Ready", try: c.agentReady},
		{name: "exec in a pod of the agent", try: knarr("kubectl", "exec", "b", "--", "true")},
		{name: "logs of a pod of the agent", try: knarr("kubectl", "logs", "b")},
		{name: "a pod asks one on the other node", try: func(ctx context.Context) error {
			_, err := b.hosts[0].Run(ctx, lab.Cmd{Args: []string{c.servers[0].Program, "kubectl", "exec", "a", "--", "testserver", "get", "-timeout", "20s", "http://" + c.addrs[1] + ":8080/hostname"}})
			return err
		}},
	}
	for end := time.Now().Add(span); time.Now().Before(end) && ctx.Err() == nil; {
		for _, a := range attempts {
			a.once(ctx)
		}
	}
	fmt.Printf("%s, %d %% of packets lost each way for %v\n\n| | times | failed | slowest |\n|---|---|---|---|\n", time.Now().Format(time.DateOnly), percent, span)
	failed := 0
	for _, a := range attempts {
		fmt.Printf("| %s | %d | %d | %.1f s |\n", a.name, a.done, a.failed, a.slowest.Seconds())
		if failed += a.failed; a.last != nil {
			fmt.Printf("\n%s: %v\n\n", a.name, a.last)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d attempts failed", failed)
	}
	return c.stop(ctx)
}

func (a *attempt) once(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	begin := time.Now()
	err := a.try(ctx)
	a.slowest = max(a.slowest, time.Since(begin))
	a.done++
	if err != nil {
		a.failed++
		a.last = err
	}
}

// agentReady is an error while the agent's node is not Ready.
func (c *running) agentReady(ctx context.Context) error {
	n, err := c.client.CoreV1().Nodes().Get(ctx, c.servers[1].Host.Name(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	var said []string
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
			return nil
		}
		said = append(said, string(cond.Type)+"="+string(cond.Status))
	}
	return fmt.Errorf("conditions are %s", strings.Join(said, ", "))
}
