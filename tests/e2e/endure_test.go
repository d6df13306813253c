//go:build endure

// What takes long is behind a build tag of its own: it is run by hand, not by scripts/test. docs/high-availability.md says how.

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
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

// TestPacketLoss has every machine of a cluster lose a fifth of what it is sent, for five minutes; in TestServers it is
// seconds.
func TestPacketLoss(t *testing.T) {
	s := enduring(t, 3)
	if s.lossy(5*time.Minute) == 0 {
		t.Error("nobody could write")
	}
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
