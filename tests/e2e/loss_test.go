package e2e

import (
	"strings"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// lossy has every machine of the cluster lose a fifth of what it is sent, for a while, and returns how many writes were
// acknowledged in it. Afterwards all is as before.
func (s *servers) lossy(during time.Duration) (writes int) {
	s.t.Helper()
	machines := append([]*cluster.Server{s.agent}, s.all...)
	// nft and not tc: not every kernel has netem.
	each := func(ruleset string) {
		for _, m := range machines {
			if out, err := m.Host.Run(s.ctx, lab.Cmd{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(ruleset)}); err != nil {
				s.t.Fatalf("nft on %s: %v\n%s", m.Host.Name(), err, out)
			}
		}
	}
	s.writer.began()
	before := s.writer.count()
	each("table inet loss { chain input { type filter hook input priority -400; iifname eth0 numgen random mod 5 0 drop; }; }")
	select {
	case <-time.After(during):
	case <-s.ctx.Done():
	}
	writes = s.writer.count() - before
	s.t.Logf("%d writes in %v with a packet loss of 20 %%, the longest time without one %.1f s", writes, during, s.writer.longest().Seconds())
	each("delete table inet loss")
	healed := time.Now()
	for _, m := range machines {
		if !m.Running() {
			s.t.Errorf("knarr on %s has ended:\n%s", m.Host.Name(), m.LogTail(20))
		}
		s.alive(m.Host.Name(), healed)
	}
	s.tunnels(len(s.all))
	s.writer.began()
	s.writer.goesOn(s.t)
	return writes
}
