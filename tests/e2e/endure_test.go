//go:build endure

// What takes long is behind a build tag of its own: it is run by hand, not by scripts/test. docs/high-availability.md says how.

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// cluster of n servers, and an agent by way of which somebody writes.
func enduring(t *testing.T, n int) *servers {
	t.Helper()
	first := lean(t, "endure-1")
	first.Args = []string{"--cluster-init", "--disable", unneeded}
	s := &servers{top: t, all: []*cluster.Server{first}, agent: lean(t, "endure-agent")}
	s.env = begin(t, first)
	s.joins = s.line("server")
	for i := 2; i <= n; i++ {
		one := lean(t, fmt.Sprintf("endure-%d", i))
		s.add(one, s.joins)
		s.all = append(s.all, one)
	}
	s.agent.Role = "agent"
	s.add(s.agent, s.line("agent"))
	s.tunnels(n)
	s.writer = startWriter(t, first, s.agent)
	return s
}

// TestPacketLoss has every machine of a cluster lose a fifth of what it is sent, for five minutes.
func TestPacketLoss(t *testing.T) {
	const lossy = 5 * time.Minute
	s := enduring(t, 3)
	machines := append([]*cluster.Server{s.agent}, s.all...)
	// nft and not tc: not every kernel has netem.
	each := func(ruleset string) {
		for _, m := range machines {
			if out, err := m.Host.Run(t.Context(), lab.Cmd{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(ruleset)}); err != nil {
				t.Fatalf("nft on %s: %v\n%s", m.Host.Name(), err, out)
			}
		}
	}
	s.writer.began()
	before := s.writer.count()
	each("table inet loss { chain input { type filter hook input priority -400; iifname eth0 numgen random mod 5 0 drop; }; }")
	select {
	case <-time.After(lossy):
	case <-t.Context().Done():
	}
	t.Logf("%d writes in %v with a packet loss of 20 %%, the longest time without one %.1f s", s.writer.count()-before, lossy, s.writer.longest().Seconds())
	if s.writer.count() == before {
		t.Error("nobody could write")
	}
	each("delete table inet loss")
	healed := time.Now()
	for _, m := range machines {
		if !m.Running() {
			t.Errorf("knarr on %s has ended:\n%s", m.Host.Name(), m.LogTail(20))
		}
		s.alive(m.Host.Name(), healed)
	}
	s.writer.began()
	s.writer.goesOn(t)
	s.counted()
}

// TestFiveServers destroys two of five servers, one after the other.
func TestFiveServers(t *testing.T) {
	s := enduring(t, 5)
	for range 2 {
		gone := s.all[0]
		s.writer.began()
		must(t, gone.Host.Crash())
		s.all = s.all[1:]
		s.at(t)
		s.writer.goesOn(t)
	}
	s.tunnels(3)
	s.members(5)
	s.counted()
}
