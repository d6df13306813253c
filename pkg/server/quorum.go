package server

import (
	"context"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/lifecycle"
)

const (
	// quorumEvery is how often a server looks whether its etcd has a leader: a look at a field in memory. etcd tells of new
	// leaders only.
	quorumEvery = 500 * time.Millisecond
	// quorumPatience is how long it may have none: longer than an election takes.
	quorumPatience = 3 * time.Second
)

// quorum sends agents to other servers while this one has lost the majority of its etcd, without which its API answers
// nothing, although the port is open.
func (g gate) quorum(store *datastore.Component) lifecycle.Component {
	return lifecycle.Func("quorum", func(ctx context.Context, ready func()) error {
		ready()
		ticker := time.NewTicker(quorumEvery)
		defer ticker.Stop()
		last, paused := time.Now(), false
		for {
			select {
			case <-ctx.Done():
				return nil
			case now := <-ticker.C:
				if store.Serves() {
					last = now
				}
				if lost := now.Sub(last) > quorumPatience; lost != paused {
					paused = lost
					g.tunnels.Pause(lost)
					g.log.Info("agents use this server", "now", !lost)
				}
			}
		}
	})
}
