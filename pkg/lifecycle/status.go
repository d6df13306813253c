package lifecycle

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// State is where a component is in its life. The values are stable: status
// output and scripts depend on them.
type State string

// A component goes from Waiting, by way of Preparing if it is a [Preparer], to
// Starting, Ready, Stopping and Stopped; to Failed from wherever it fails.
const (
	Waiting   State = "waiting"   // for the components it depends on
	Preparing State = "preparing" // in its Prepare
	Starting  State = "starting"  // running, not yet ready
	Ready     State = "ready"     // dependents may start
	Degraded  State = "degraded"  // ready, but its latest Check failed
	Stopping  State = "stopping"  // asked to stop
	Stopped   State = "stopped"   // ended as it should, or never started
	Failed    State = "failed"    // ended with an error, or left behind
)

// Status is what is known of a component at one moment.
type Status struct {
	Name  string    `json:"name"`
	State State     `json:"state"`
	Since time.Time `json:"since"` // when it entered the state
	// WaitingFor names what it depends on that is not ready, while Waiting.
	WaitingFor []string `json:"waitingFor,omitempty"`
	// LastError says why it is Degraded or Failed, and is empty otherwise.
	LastError string `json:"lastError,omitempty"`
	Optional  bool   `json:"optional,omitempty"`
}

// Status returns the status of every component, in Add order.
func (g *Group) Status() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]Status, 0, len(g.nodes))
	for _, n := range g.nodes {
		all = append(all, n.status())
	}
	return all
}

// status is called with mu held.
func (n *node) status() Status {
	s := Status{Name: n.name, State: n.state, Since: n.since, LastError: n.lastError, Optional: n.optional}
	if n.state != Waiting {
		return s
	}
	for _, d := range n.after {
		if slices.Contains([]State{Waiting, Preparing, Starting}, d.state) {
			s.WaitingFor = append(s.WaitingFor, d.name)
		}
	}
	return s
}

// move takes n to a state, for the reason err if there is one, and tells the
// observer. With from given it does so only out of one of those states. It
// reports whether n is in the state because of it.
func (g *Group) move(n *node, to State, err error, from ...State) bool {
	g.observing.Lock()
	defer g.observing.Unlock()

	g.mu.Lock()
	was, entered := n.state, n.since
	if len(from) > 0 && !slices.Contains(from, was) {
		g.mu.Unlock()
		return false
	}
	n.lastError = ""
	if err != nil {
		n.lastError = err.Error()
	}
	if was != to {
		n.state, n.since = to, time.Now()
	}
	now := n.status()
	g.mu.Unlock()

	if was != to {
		g.logMove(now, was, now.Since.Sub(entered))
		g.observe(now)
	}
	return true
}

// logMove leaves out the reason of a failure: whoever handles that logs it.
func (g *Group) logMove(now Status, was State, took time.Duration) {
	level := slog.LevelDebug
	attrs := []slog.Attr{
		slog.String("component", now.Name),
		slog.Duration("after", took.Round(time.Millisecond)),
	}
	switch now.State {
	case Ready:
		level = slog.LevelInfo
	case Degraded:
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("error", now.LastError))
	}
	attrs = append(attrs, slog.String("was", string(was)))
	g.log.LogAttrs(context.Background(), level, "component is "+string(now.State), attrs...)
}
