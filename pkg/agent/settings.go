package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// waitingServers is how many servers may wait to be asked: more than a cluster has.
const waitingServers = 64

// settingsFollower asks a server for the cluster's settings whenever a tunnel to it has opened, as after the server was
// started with others, and ends with a [lifecycle.Restart] when they are not those that this agent runs with. While the
// servers differ, as in the middle of a change, it stays as it is.
func (m *member) settingsFollower(opened <-chan string, log *slog.Logger) lifecycle.Component {
	return lifecycle.Func("cluster-settings", func(ctx context.Context, ready func()) error {
		ready()
		said := map[string][]join.Setting{}
		for {
			select {
			case <-ctx.Done():
				return nil
			case server := <-opened:
				fresh, err := m.ask(ctx, server)
				if err != nil {
					log.Debug("a server did not say what the cluster's settings are", "server", server, "error", err)
					continue
				}
				said[server] = fresh.Settings
				if reason := m.overtaken(said, fresh.Settings, m.tunnelClient.Connected, log); reason != "" {
					m.learn(func(c *join.Cluster) { c.Settings = fresh.Settings }, log)
					return &lifecycle.Restart{Reason: reason}
				}
			}
		}
	})
}

// ask gets the settings of one server, which may be starting.
func (m *member) ask(ctx context.Context, server string) (fresh join.Cluster, err error) {
	ca, certificate, ok := m.credentials()
	if !ok {
		return fresh, fmt.Errorf("the node's certificate has ended")
	}
	client := &join.Client{URL: &url.URL{Scheme: "https", Host: server}, Node: m.nodeName, CA: ca, Certificate: certificate}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	err = join.Patiently(ctx, "server "+server, func(ctx context.Context) (err error) {
		fresh, err = client.Cluster(ctx)
		return err
	})
	return fresh, err
}

// overtaken says why this agent has to start again; "" when it need not, or when that would not help. said is what each
// server said last, of which those that are not connected any more do not count.
func (m *member) overtaken(said map[string][]join.Setting, fresh []join.Setting, connected func(server string) bool, log *slog.Logger) string {
	for server, settings := range said {
		if connected(server) && !slices.Equal(settings, fresh) {
			return ""
		}
	}
	changes := join.Differences(m.settings, fresh)
	if len(changes) == 0 {
		return ""
	}
	_, err := config.FromCluster(settingsOf(fresh))
	if conflicts := m.conflicts(fresh); len(conflicts) > 0 {
		err = fmt.Errorf("this machine's configuration is another: %s", strings.Join(conflicts, "; "))
	}
	if err != nil {
		log.Error("the cluster's settings have changed, and this agent cannot follow", "changes", changes, "error", err)
		return ""
	}
	return "the cluster's settings have changed: " + strings.Join(changes, "; ")
}

// conflicts are the settings that this machine was told otherwise.
func (m *member) conflicts(settings []join.Setting) []string {
	var told []join.Setting
	for _, s := range m.Told.All() {
		told = append(told, join.Setting(s))
	}
	return join.Differences(told, settings)
}

func settingsOf(list []join.Setting) []config.Setting {
	settings := make([]config.Setting, len(list))
	for i, s := range list {
		settings[i] = config.Setting(s)
	}
	return settings
}

// learn changes what is known of the cluster, in memory and on disk.
func (m *member) learn(change func(*join.Cluster), log *slog.Logger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.known)
	if err := m.state().Store(m.known); err != nil {
		log.Warn("what is known of the cluster is not kept", "error", err)
	}
}
