package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// narrate says in the log what a start, then a stop, is waiting for. It returns
// when every component is gone.
func (g *Group) narrate() {
	var settled, done []<-chan struct{}
	for _, n := range g.members() {
		settled = append(settled, n.settled)
		done = append(done, n.done)
	}
	g.narrateUntil("still starting", settled, g.stopping.Done(), Preparing, Waiting, Starting)
	<-g.stopping.Done()
	g.narrateUntil("still stopping", done, nil, Stopping)
}

// narrateUntil logs a line from time to time, naming the components that are in
// one of states, until all of events have happened or quit is closed.
func (g *Group) narrateUntil(line string, events []<-chan struct{}, quit <-chan struct{}, states ...State) {
	timer := time.NewTimer(g.progressFirst)
	defer timer.Stop()
	for len(events) > 0 {
		select {
		case <-events[0]:
			events = events[1:]
		case <-quit:
			return
		case <-timer.C:
			g.log.Info(line, "components", g.describe(states))
			timer.Reset(g.progressEvery)
		}
	}
}

// describe lists the components in one of states:
// "apiserver (starting for 3s), kubelet (waiting for apiserver for 4s)".
func (g *Group) describe(states []State) string {
	var all []string
	for _, s := range g.Status() {
		if !slices.Contains(states, s.State) {
			continue
		}
		doing := string(s.State)
		if len(s.WaitingFor) > 0 {
			doing += " for " + strings.Join(s.WaitingFor, ", ")
		}
		took := time.Since(s.Since).Round(100 * time.Millisecond)
		all = append(all, fmt.Sprintf("%s (%s for %v)", s.Name, doing, took))
	}
	return strings.Join(all, ", ")
}
