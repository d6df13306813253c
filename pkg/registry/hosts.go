package registry

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Marker is the first line of every hosts.toml that knarr has written.
const Marker = "# Written by knarr from registries.yaml.\n"

// Files are the hosts.toml of every registry by path below containerd's config_path: HOST/hosts.toml, _default/hosts.toml
// for the wildcard. They hold credentials. Registries about which there is nothing to say have none.
//
// The registry itself is always the last to be asked, unless noDefault (--disable-default-registry-endpoint) says that
// one with mirrors never is.
func (s Settings) Files(noDefault bool) map[string][]byte {
	wildcard := s.hostsFile(Wildcard, noDefault)
	files := make(map[string][]byte)
	if wildcard != "" {
		files["_default/hosts.toml"] = []byte(Marker + wildcard)
	}
	for _, host := range slices.Concat(slices.Collect(maps.Keys(s.Mirrors)), slices.Collect(maps.Keys(s.Configs))) {
		text := s.hostsFile(host, noDefault)
		// One without anything to say keeps containerd from taking the wildcard's.
		if host != Wildcard && (text != "" || wildcard != "") {
			files[path.Join(host, "hosts.toml")] = []byte(Marker + text)
		}
	}
	return files
}

// hostsFile is the content of one hosts.toml, as containerd's core/remotes/docker/config/hosts.go:425 (parseHostsFile)
// reads it: first the last host to be asked, whose keys stand at the top of the file, then the others in their order.
// Where no server is named, containerd puts the registry itself.
func (s Settings) hostsFile(registry string, noDefault bool) string {
	m := s.mirror(registry)
	mirrors := m.Endpoints
	var b strings.Builder
	if last := len(mirrors) - 1; last >= 0 && (noDefault || m.Prefix == "" && mirrors[last].isHost(registry)) {
		fmt.Fprintf(&b, "server = %s\n", quote(mirrors[last].url(m.Prefix)))
		s.endpoint(&b, mirrors[last], m.Prefix)
		mirrors = mirrors[:last]
	} else {
		s.config(registry).write(&b)
	}
	for _, e := range mirrors {
		fmt.Fprintf(&b, "\n[host.%s]\n", quote(e.url(m.Prefix)))
		s.endpoint(&b, e, m.Prefix)
	}
	return b.String()
}

// endpoint writes the keys of a mirror. Nothing is ever pushed to one.
func (s Settings) endpoint(b *strings.Builder, e Endpoint, prefix string) {
	b.WriteString("capabilities = [\"pull\", \"resolve\"]\n")
	if !strings.HasSuffix(e.url(prefix), "/v2") {
		b.WriteString("override_path = true\n")
	}
	s.config(e.Host).write(b)
}

// write writes the keys that say how to talk to a host. The header goes along with every request to it and to the
// token server it names, and not with a redirection to somebody else's host.
func (c Config) write(b *strings.Builder) {
	if t := c.TLS; t.CAFile != "" {
		fmt.Fprintf(b, "ca = %s\n", quote(t.CAFile))
	}
	switch t := c.TLS; {
	case t.KeyFile != "":
		fmt.Fprintf(b, "client = [[%s, %s]]\n", quote(t.CertFile), quote(t.KeyFile))
	case t.CertFile != "":
		fmt.Fprintf(b, "client = %s\n", quote(t.CertFile))
	}
	if c.TLS.InsecureSkipVerify {
		b.WriteString("skip_verify = true\n")
	}
	if h := c.Auth.header(); h != "" {
		fmt.Fprintf(b, "header = { Authorization = %s }\n", quote(h))
	}
}

// quote makes a TOML string. Go's escapes are TOML's, since there are no control characters in what is quoted.
func quote(text string) string { return strconv.Quote(text) }
