// Command hollow measures what nodes cost a knarr server: it joins hollow nodes
// to one, which are upstream's kubelets without containers (kubemark), in steps,
// and prints a table of the server's CPU, memory and writes at each. The script
// run beside it builds and starts it. The nodes do nothing: pods cost extra.
//
// How it stops: after the last step, or on an interrupt; the test hosts end with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/knarr-io/knarr/tests/bench/usage"
	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

func main() { os.Exit(cluster.Main("hollow", run)) }

// options are the command line.
type options struct {
	kubemark string // the program of a hollow node
	steps    []int  // numbers of nodes, ascending
	settle   time.Duration
	span     time.Duration
	batch    int
}

func parseOptions() (o options, err error) {
	steps := flag.String("nodes", "10,100", "numbers of hollow nodes to measure at, ascending")
	flag.StringVar(&o.kubemark, "kubemark", "", "upstream's kubemark program")
	flag.DurationVar(&o.settle, "settle", time.Minute, "how long to wait after each step before measuring")
	flag.DurationVar(&o.span, "span", 2*time.Minute, "over which time to count CPU and writes")
	flag.IntVar(&o.batch, "batch", 25, "nodes to start at a time")
	flag.Parse()
	for s := range strings.SplitSeq(*steps, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || len(o.steps) > 0 && n <= o.steps[len(o.steps)-1] {
			return o, fmt.Errorf("-nodes %s: give ascending numbers, separated by commas", *steps)
		}
		o.steps = append(o.steps, n)
	}
	return o, nil
}

// bench is one server and the host on which all hollow nodes live.
type bench struct {
	options
	server *cluster.Server
	client *cluster.Client
	crowd  *lab.Host
	nodes  []*lab.Process
}

// program and kubeconfig are where the crowd's host has them.
const (
	program    = "/usr/local/bin/kubemark"
	kubeconfig = "/etc/hollow.kubeconfig"
)

func run(ctx context.Context) error {
	o, err := parseOptions()
	if err != nil {
		return err
	}
	return cluster.InLab(ctx, func(l *lab.Lab, binary string) error {
		b := &bench{options: o}
		if err := b.prepare(ctx, l, binary); err != nil {
			return err
		}
		rows := []row{}
		for _, n := range append([]int{0}, o.steps...) {
			r, err := b.step(ctx, n)
			if err != nil {
				return fmt.Errorf("with %d nodes: %w", n, err)
			}
			fmt.Fprintf(os.Stderr, "%d nodes: %+v\n", n, r)
			rows = append(rows, r)
		}
		fmt.Print(table(rows))
		return nil
	})
}

func (b *bench) prepare(ctx context.Context, l *lab.Lab, binary string) error {
	host, err := l.AddHost(ctx, "server", lab.Options{})
	if err != nil {
		return err
	}
	if b.server, err = cluster.New(host, false, binary, nil); err != nil {
		return err
	}
	if err := b.server.Start(); err != nil {
		return err
	}
	if b.client, err = b.server.WaitNode(ctx); err != nil {
		return err
	}
	if b.crowd, err = l.AddHost(ctx, "crowd", lab.Options{}); err != nil {
		return err
	}
	if err := b.crowd.CopyIn(b.kubemark, program, 0o755); err != nil {
		return err
	}
	// The administrator's credentials serve every node. The address is not the
	// loopback's any more.
	raw, err := host.ReadFile(cluster.Kubeconfig)
	if err != nil {
		return err
	}
	conf, err := clientcmd.Load(raw)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, c := range conf.Clusters {
		c.Server = "https://" + host.Addr().String() + ":6443"
	}
	if raw, err = clientcmd.Write(*conf); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return b.crowd.WriteFile(kubeconfig, raw, 0o600)
}

// row is what one step has shown.
type row struct {
	nodes     int
	join      time.Duration // from the first start of the step to all Ready
	cpu       float64       // percent of a core
	pss, anon float64       // MiB
	writes    float64       // revisions a second
	crowd     usage.Process // the hollow nodes themselves, all together, over the span
}

// step brings the number of nodes to n, lets them settle, and watches.
func (b *bench) step(ctx context.Context, n int) (row, error) {
	r := row{nodes: n}
	begin := time.Now()
	for len(b.nodes) < n {
		for range min(b.batch, n-len(b.nodes)) {
			if err := b.add(); err != nil {
				return r, err
			}
		}
		if err := b.all(ctx, "registered", func(*corev1.Node) bool { return true }); err != nil {
			return r, err
		}
	}
	if err := b.all(ctx, "Ready", isReady); err != nil {
		return r, err
	}
	r.join = time.Since(begin)
	if err := wait(ctx, b.settle); err != nil {
		return r, err
	}
	return r, b.watch(ctx, &r)
}

// add starts one hollow node.
func (b *bench) add() error {
	i := len(b.nodes)
	p, err := b.crowd.Start(lab.Cmd{Env: []string{"GOMAXPROCS=1"}, Args: []string{program, "--morph=kubelet", fmt.Sprintf("--name=hollow-%03d", i),
		"--kubeconfig=" + kubeconfig, "--use-host-image-service=false", fmt.Sprintf("--kubelet-port=%d", 20000+i), "--kubelet-read-only-port=0",
		"--node-labels=hollow=true", "--register-with-taints=hollow=true:NoSchedule"}})
	if err != nil {
		return err
	}
	b.nodes = append(b.nodes, p)
	return nil
}

// all waits until every hollow node is as it should be. A kubelet that was slow to register is Ready only 140 s later
// (kubernetes pkg/volume/csi/csi_plugin.go:367), so batches wait for the registration alone.
func (b *bench) all(ctx context.Context, what string, is func(*corev1.Node) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return lab.Poll(ctx, time.Second, func() error {
		list, err := b.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "hollow"})
		if err != nil {
			return err
		}
		list.Items = slices.DeleteFunc(list.Items, func(n corev1.Node) bool { return !is(&n) })
		if n := len(list.Items); n < len(b.nodes) {
			return fmt.Errorf("%d of %d hollow nodes are %s; the last says:\n%s", n, len(b.nodes), what, tail(b.nodes[len(b.nodes)-1].Log()))
		}
		return nil
	})
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func tail(s string) string { return s[max(0, len(s)-1000):] }

// watch fills in what the server costs while nobody does anything.
func (b *bench) watch(ctx context.Context, r *row) error {
	pid := b.server.Process().PID()
	before, err := usage.Read(pid)
	if err != nil {
		return err
	}
	crowdBefore, err := b.crowdUsage()
	if err != nil {
		return err
	}
	first, err := b.revision(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := wait(ctx, b.span); err != nil {
		return err
	}
	after, err := usage.Read(pid)
	if err != nil {
		return err
	}
	last, err := b.revision(ctx)
	if err != nil {
		return err
	}
	if r.crowd, err = b.crowdUsage(); err != nil {
		return err
	}
	r.crowd.CPU -= crowdBefore.CPU
	seconds := time.Since(begin).Seconds()
	r.cpu = 100 * (after.CPU - before.CPU).Seconds() / seconds
	r.pss, r.anon = after.PSS, after.Anonymous
	r.writes = float64(last-first) / seconds
	return nil
}

// crowdUsage is what the hollow nodes themselves take of the machine.
func (b *bench) crowdUsage() (usage.Process, error) {
	var sum usage.Process
	for _, n := range b.nodes {
		p, err := usage.Read(n.PID())
		if err != nil {
			return sum, fmt.Errorf("measure a hollow node: %w\n%s", err, tail(n.Log()))
		}
		sum.CPU, sum.PSS, sum.Anonymous = sum.CPU+p.CPU, sum.PSS+p.PSS, sum.Anonymous+p.Anonymous
	}
	return sum, nil
}

// revision is the datastore's: every write counts one.
func (b *bench) revision(ctx context.Context) (int64, error) {
	list, err := b.client.CoreV1().ConfigMaps("kube-public").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("ask for the datastore's revision: %w", err)
	}
	return strconv.ParseInt(list.ResourceVersion, 10, 64)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// table has a line for each step; what a node costs is against the first, which has none.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| hollow nodes | all Ready after | CPU of a core | a node | memory (PSS) | anonymous | a node | writes/s | a node |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	each := func(format string, r row, of func(row) float64) string {
		if r.nodes == 0 {
			return ""
		}
		return fmt.Sprintf(format, (of(r)-of(rows[0]))/float64(r.nodes))
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "| %d | %.0f s | %.1f %% | %s | %.0f MiB | %.0f MiB | %s | %.2f | %s |\n", r.nodes, r.join.Seconds(),
			r.cpu, each("%.3f %%", r, func(r row) float64 { return r.cpu }), r.pss, r.anon,
			each("%.2f MiB", r, func(r row) float64 { return r.anon }), r.writes, each("%.3f", r, func(r row) float64 { return r.writes }))
	}
	if last := rows[len(rows)-1]; last.nodes > 0 {
		fmt.Fprintf(&b, "\nA hollow node itself takes %.1f MiB, %.1f MiB of them anonymous, and %.2f s of CPU over that time.\n",
			last.crowd.PSS/float64(last.nodes), last.crowd.Anonymous/float64(last.nodes), last.crowd.CPU.Seconds()/float64(last.nodes))
	}
	return b.String()
}
