// Package resolver keeps, in a directory of the host, which DNS servers the pods of this node can use:
//
//	resolv.conf   for pods that want the host's servers (dnsPolicy Default): the kubelet reads it at each pod's start
//	host.forward  for the cluster's name server, which imports it into its Corefile: whom it forwards to
//
// Both follow the host's resolv.conf, so that a host that gets its servers late, or moves to another network, needs no
// restart. Servers that a pod cannot reach are left out: see [Servers].
//
// It resolves nothing itself. It stops with its context; the files stay.
package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/filewatch"
)

const (
	// ConfName and ForwardName are the files in Config.Dir.
	ConfName    = "resolv.conf"
	ForwardName = "host.forward"

	// quiet is how long the host's file must have been left alone before it is read.
	quiet = 100 * time.Millisecond
	// maxForward is how many servers CoreDNS takes (plugin/forward/forward.go).
	maxForward = 15
)

// Config is what the component needs to know. Paths are absolute.
type Config struct {
	// Sources are the files to take the servers from: the first that names a usable one.
	Sources []string
	// Dir is where the results go.
	Dir string
	// Excluded are networks that no server is in: the cluster's own services. A host that asks the cluster's name server
	// must not be asked by it.
	Excluded []netip.Prefix
}

// HostSources are where a host says what its servers are. systemd-resolved names itself, on a loopback address, in the
// first, and its servers in the second.
func HostSources() []string {
	return []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
}

// Component keeps the files. Use [New].
type Component struct {
	config Config
	log    *slog.Logger
}

// New makes the component.
func New(c Config, log *slog.Logger) *Component { return &Component{c, log} }

// Name is "resolvers".
func (*Component) Name() string { return "resolvers" }

// Run is ready when the files are there.
func (c *Component) Run(ctx context.Context, ready func()) error {
	if err := atomicfile.MkdirAll(c.config.Dir, 0o755); err != nil {
		return err
	}
	return filewatch.Run(ctx, filewatch.Config{
		What: "the host's resolv.conf", Paths: c.paths, Quiet: quiet, Changed: c.update,
		Concerns: func(path string) bool { return filepath.Base(path) == ConfName || c.concerns(path) },
	}, c.log, ready)
}

// concerns tells whether path is a source or what one leads to.
func (c *Component) concerns(path string) bool {
	for _, source := range c.config.Sources {
		if target, err := filepath.EvalSymlinks(source); path == source || err == nil && path == target {
			return true
		}
	}
	return false
}

// paths are the sources and the directories in which they, or what they link to, are replaced. The file itself too, since
// on some hosts (containers) it is a mount that is written to in another directory.
func (c *Component) paths() []string {
	var paths []string
	for _, source := range c.config.Sources {
		paths = append(paths, filepath.Dir(source))
		if target, err := filepath.EvalSymlinks(source); err == nil {
			paths = append(paths, target, filepath.Dir(target))
		}
	}
	return paths
}

// update writes what the sources say now.
func (c *Component) update() error {
	source, text, err := c.choose()
	if err != nil {
		return err
	}
	servers, conf := Servers(text, c.config.Excluded)
	_, err = atomicfile.WriteIfChanged(filepath.Join(c.config.Dir, ConfName), []byte(conf), 0o644)
	if err != nil {
		return err
	}
	changed, err := atomicfile.WriteIfChanged(filepath.Join(c.config.Dir, ForwardName), []byte(forward(servers)), 0o644)
	switch {
	case err != nil || !changed:
	case len(servers) == 0:
		c.log.Warn("the host has no DNS server that pods can reach: they resolve names of the cluster only; give --resolv-conf with a file that names one", "looked at", c.config.Sources)
	default:
		c.log.Info("pods resolve outside names by the host's DNS servers", "servers", servers, "from", source)
	}
	return err
}

// choose reads the first source with a usable server, else the first that there is.
func (c *Component) choose() (source, text string, err error) {
	for _, path := range c.config.Sources {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", "", fmt.Errorf("read the host's DNS servers: %w", err)
		}
		servers, _ := Servers(string(content), c.config.Excluded)
		if len(servers) > 0 {
			return path, string(content), nil
		}
		if source == "" {
			source, text = path, string(content)
		}
	}
	return source, text, nil
}

// Servers are the DNS servers in a resolv.conf that a pod can reach, and the file without the others. Not to be reached
// are loopback addresses, which in a pod are the pod's own; IPv6 link-local ones, which need an interface; and what is
// excluded.
func Servers(text string, excluded []netip.Prefix) (servers []netip.Addr, conf string) {
	var kept bytes.Buffer
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			kept.WriteString(line)
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if err != nil || !reachable(a, excluded) {
			continue
		}
		kept.WriteString(line)
		if !slices.Contains(servers, a.Unmap()) {
			servers = append(servers, a.Unmap())
		}
	}
	return servers, kept.String()
}

func reachable(a netip.Addr, excluded []netip.Prefix) bool {
	a = a.Unmap()
	if a.IsLoopback() || a.IsUnspecified() || a.Is6() && a.IsLinkLocalUnicast() {
		return false
	}
	return !slices.ContainsFunc(excluded, func(p netip.Prefix) bool { return p.Contains(a) })
}

// forward is the part of a Corefile that has everything else forwarded to servers; with none, nothing is.
func forward(servers []netip.Addr) string {
	if len(servers) == 0 {
		return ""
	}
	line := "forward ."
	for _, a := range servers[:min(len(servers), maxForward)] {
		line += " " + a.String()
	}
	return line + "\n"
}
