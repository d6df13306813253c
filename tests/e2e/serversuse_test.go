package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
)

// What nodes may ask for when a server has died: an agent each of its some thirty watches again, and once more those that
// come back too soon, on top of what all nodes ask in each second anyhow.
const (
	stampede = 100
	usual    = 10
)

// calm checks that nodes have not asked for much since servers were asked for so many things, at a time.
func (s *servers) calm(asked int, since time.Time) {
	s.t.Helper()
	more, took := s.requests(s.all)-asked, time.Since(since)
	s.t.Logf("nodes have made %d requests in %.1f s", more, took.Seconds())
	if limit := stampede + int(usual*took.Seconds()); more > limit {
		s.t.Errorf("nodes have made %d requests, want at most %d", more, limit)
	}
}

// requests is how many servers were asked by nodes, their own and the agent: by kubelets, kube-proxy and knarr's own
// components on agents. What is counted does not include the writer and the control loops.
func (s *servers) requests(of []*cluster.Server) (n int) {
	s.t.Helper()
	for _, one := range of {
		raw, err := one.Command(s.ctx, "kubectl", "get", "--raw", "/metrics")
		s.must(err)
		for line := range strings.SplitSeq(raw, "\n") {
			n += nodesRequests(s.t, line)
		}
	}
	if n == 0 {
		s.t.Fatal("the servers count no requests of nodes")
	}
	return n
}

// nodesRequests is what a line of metrics counts of them.
func nodesRequests(t *testing.T, line string) int {
	t.Helper()
	for _, schema := range []string{"system-nodes", "system-node-high", "global-default"} {
		rest, counts := strings.CutPrefix(line, `apiserver_flowcontrol_dispatched_requests_total{flow_schema="`+schema+`"`)
		if !counts {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndex(rest, " ")+1:], 64)
		must(t, err)
		return int(v)
	}
	return 0
}

// inUse is the server that the agent's requests go to. It is the last from now on.
func (s *servers) inUse() *cluster.Server {
	s.t.Helper()
	var address string
	for _, link := range s.status(s.agent).Servers {
		if link.Used {
			address, _, _ = strings.Cut(link.Address, ":")
		}
	}
	return s.last(address, func(one *cluster.Server) bool {
		return address == cmp.Or(s.addrs[one.Host.Name()], one.Host.Addr().String())
	})
}

// last puts a server at the end, so that others are asked about it.
func (s *servers) last(what string, is func(*cluster.Server) bool) *cluster.Server {
	s.t.Helper()
	i := slices.IndexFunc(s.all, is)
	if i < 0 {
		s.t.Fatalf("no server is %q", what)
	}
	one := s.all[i]
	s.all = append(slices.Delete(slices.Clone(s.all), i, i+1), one)
	s.at(s.t)
	return one
}

// moved gives one of those that do not lead another address. What comes next leaves it and one other alone: they have a
// quorum only if the members of the etcd know where it is.
func (s *servers) moved() {
	s.leading()
	one := s.all[1]
	n := &network{joined: &joined{env: s.env}, addrs: map[string]string{one.Host.Name(): one.Host.Addr().String()}}
	s.writer.began()
	began := time.Now()
	n.renumber(one.Host, later(one.Host))
	s.addrs = n.addrs
	want := n.addrs[one.Host.Name()]
	s.eventually("node "+one.Host.Name()+" to have the address "+want, func() error {
		node, err := s.client.CoreV1().Nodes().Get(s.ctx, one.Host.Name(), metav1.GetOptions{})
		if err == nil && (len(node.Status.Addresses) == 0 || node.Status.Addresses[0].Address != want) {
			err = fmt.Errorf("it has %v", node.Status.Addresses)
		}
		return err
	})
	s.alive(one.Host.Name(), began)
	s.t.Logf("followed %.1f s after the address has changed", time.Since(began).Seconds())
	s.writer.goesOn(s.t)
	s.tunnels(3)
	s.undisturbed()
}
