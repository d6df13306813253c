package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datastore/etcd"
	"github.com/knarr-io/knarr/pkg/hostcheck"
	"github.com/knarr-io/knarr/pkg/token"
)

// checkFlags are flags of `knarr server` that check-config knows too, since they
// change what of the host matters. The rest comes from file and environment.
func checkFlags() []string {
	return []string{"config", "data-dir", "node-name", "https-listen-port", "flannel-backend"}
}

func checkConfigCommand(env Env) *cli.Command {
	flags := []cli.Flag{
		tableOrJSON(),
	}
	for _, name := range checkFlags() {
		flags = append(flags, &cli.StringFlag{Name: name, Usage: "as for `knarr server`"})
	}
	return &cli.Command{
		Name:  "check-config",
		Usage: "Check that this host and its configuration are fit for knarr, and say what to do",
		Description: "Looks at kernel, control groups, mounts, ports, memory, network and configuration, and\n" +
			"changes nothing. The exit code is 1 when something would keep knarr from working.",
		Flags: flags,
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			format, err := outputFormat(c)
			if err != nil {
				return err
			}
			var line configLine
			for _, name := range checkFlags() {
				if c.IsSet(name) {
					line.occurrences = append(line.occurrences, config.Occurrence{Name: name, Value: c.String(name)})
				}
			}
			in, err := env.configInput(line)
			if err != nil {
				return err
			}
			settings, rows := checkedSettings(in)
			host, err := hostcheck.System(settings.DataDir)
			if err != nil {
				return failf("look at this host: %w", err)
			}
			rows = append(rows, hostcheck.Run(host, settings)...)
			return printChecks(env, rows, format)
		},
	}
}

// checkedSettings loads the configuration. Each problem in it is a row, and the
// host is then checked for the defaults.
func checkedSettings(in config.Input) (hostcheck.Settings, []hostcheck.Result) {
	settings := hostcheck.DefaultSettings()
	server, err := config.LoadServer(in)
	if agent, agentErr := config.LoadAgent(in); agentErr == nil && (err != nil || !ofServers(agent.Token)) {
		return agentSettings(settings, agent)
	}
	if err != nil {
		var problems *config.Error
		if !errors.As(err, &problems) {
			return settings, []hostcheck.Result{configurationRow(hostcheck.Fail, err.Error())}
		}
		var rows []hostcheck.Result
		for _, p := range problems.Problems {
			rows = append(rows, configurationRow(hostcheck.Fail, p.String()))
		}
		return settings, rows
	}
	settings.DataDir, settings.NodeName = server.DataDir, server.Node.Name
	settings.Vxlan = server.Network.FlannelBackend == config.FlannelVXLAN
	var ports []hostcheck.Port
	for _, port := range settings.Ports {
		if port.Flag == "--https-listen-port" {
			port.Number = server.Listener.Port
		}
		if port.Network == "udp" && !settings.Vxlan {
			continue
		}
		ports = append(ports, port)
	}
	if settings.WireGuard = server.Network.FlannelBackend == config.FlannelWireGuard; settings.WireGuard {
		ports = append(ports, hostcheck.Port{Network: "udp", Number: 51820, Use: "pod network (WireGuard)", Flag: "--flannel-backend", From: hostcheck.Nodes})
	}
	ports = append(ports, etcdPorts(server)...)
	settings.Ports = ports
	return settings, []hostcheck.Result{validRow("valid", server.Common)}
}

// etcdPorts are those of the embedded etcd: of the server that begins it and of those that join.
func etcdPorts(s config.Server) []hostcheck.Port {
	if !s.Components.Etcd || s.Datastore.Endpoint.IsSet() || !s.Datastore.ClusterInit && s.Join.Server == "" {
		return nil
	}
	ports := []hostcheck.Port{
		{Network: "tcp", Number: etcd.ClientPort, Use: "etcd's clients", From: hostcheck.Nodes},
		{Network: "tcp", Number: etcd.PeerPort, Use: "etcd's members", From: hostcheck.Nodes},
	}
	if s.Datastore.ExposeMetrics {
		ports = append(ports, hostcheck.Port{Network: "tcp", Number: etcd.MetricsPort, Use: "etcd's metrics", Flag: "--etcd-expose-metrics"})
	}
	return ports
}

// ofServers tells servers that join from agents where the rest of the configuration fits both: it names a server to join
// and says nothing that only one of them takes. Without a word in the token it is an agent's, as most machines are.
func ofServers(secret config.Secret) bool {
	t, err := token.Parse(secret.Reveal())
	return err == nil && t.User() == token.UserServer
}

// agentSettings are those of an agent: its servers decide about the network, and it runs no control plane.
func agentSettings(settings hostcheck.Settings, agent config.Agent) (hostcheck.Settings, []hostcheck.Result) {
	settings.DataDir, settings.NodeName = agent.DataDir, agent.Node.Name
	var ports []hostcheck.Port
	for _, port := range settings.Ports {
		switch {
		case port.Flag == "--lb-server-port":
			port.Number = agent.Join.BalancerPort
		case port.ControlPlane():
			continue
		}
		ports = append(ports, port)
	}
	settings.Ports = ports
	return settings, []hostcheck.Result{validRow("valid, of an agent", agent.Common)}
}

// validRow says where a configuration that is valid comes from.
func validRow(finding string, c config.Common) hostcheck.Result {
	switch files := c.ConfigFiles; files.Len() {
	case 0:
		finding += "; no file, defaults and environment"
	case 1:
		finding += "; read from " + files.At(0)
	default:
		finding += fmt.Sprintf("; read from %s and %d more", files.At(0), files.Len()-1)
	}
	return configurationRow(hostcheck.OK, finding)
}

func configurationRow(level hostcheck.Level, finding string) hostcheck.Result {
	r := hostcheck.Result{Group: "knarr", Name: "configuration", Level: level, Finding: finding}
	if level == hostcheck.Fail {
		r.Action = "correct it; `knarr server --help` lists every flag, which are the keys of the file as well"
	}
	return r
}

func printChecks(env Env, rows []hostcheck.Result, format string) error {
	var err error
	if format == formatJSON {
		encoder := json.NewEncoder(env.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(struct {
			Level   hostcheck.Level    `json:"level"`
			Results []hostcheck.Result `json:"results"`
		}{hostcheck.Worst(rows), rows})
	} else {
		_, err = io.WriteString(env.Stdout, checksText(rows, env.colours(env.Stdout)))
	}
	if err != nil {
		return failf("write the results: %w", err)
	}
	if n := countLevel(rows, hostcheck.Fail); n > 0 {
		return failf("%d of %d checks failed", n, len(rows))
	}
	return nil
}

func countLevel(rows []hostcheck.Result, level hostcheck.Level) int {
	n := 0
	for _, r := range rows {
		if r.Level == level {
			n++
		}
	}
	return n
}

// levelColour is the escape sequence of a level.
func levelColour(level hostcheck.Level) string {
	switch level {
	case hostcheck.Fail:
		return "\x1b[31m"
	case hostcheck.Warn:
		return "\x1b[33m"
	default:
		return "\x1b[32m"
	}
}

// checksText is the table for a person, with what is to be done below each finding.
func checksText(rows []hostcheck.Result, colours bool) string {
	var b strings.Builder
	group := ""
	const indent = 26 // where findings begin
	for _, r := range rows {
		if r.Group != group {
			group = r.Group
			b.WriteString(group + "\n")
		}
		level := fmt.Sprintf("%-4s", r.Level)
		if colours {
			level = levelColour(r.Level) + level + "\x1b[0m"
		}
		fmt.Fprintf(&b, "  %s  %-16s  %s\n", level, r.Name, wrap(r.Finding, terminalWidth-indent, indent))
		if r.Action != "" {
			fmt.Fprintf(&b, "%*s-> %s\n", indent, "", wrap(r.Action, terminalWidth-indent-3, indent+3))
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d warnings, %d failed\n", countLevel(rows, hostcheck.OK), countLevel(rows, hostcheck.Warn), countLevel(rows, hostcheck.Fail))
	return b.String()
}
