// Package registry reads registries.yaml, in which users name mirrors of image registries, credentials and
// certificates, and writes what containerd makes of them: one hosts.toml per registry, read at every pull. A [Watcher]
// keeps the two alike while knarr runs, so that a change needs no restart.
//
// The format is k3s's, and so is what it means; docs/registries.md tells where knarr differs. The package is not a
// registry and pulls nothing.
//
// [Parse] and [Settings.Files] are pure. The Watcher stops when its context ends; files are written atomically, and
// the next start completes what a kill interrupted.
package registry

import (
	"encoding/base64"
	"strings"
)

// Wildcard stands in the mirrors and in the configs for every registry that has no entry there.
const Wildcard = "*"

// dockerHub is what images without a registry are in; its API is at dockerHubAPI.
const (
	dockerHub    = "docker.io"
	dockerHubAPI = "registry-1.docker.io"
)

// Settings are the content of a registries.yaml that has no mistakes. Registries are named by host or host:port;
// Docker Hub, under any of its names, is "docker.io". The zero value is an empty file.
type Settings struct {
	Mirrors map[string]Mirror
	Configs map[string]Config
}

// Mirror says where else to look for the images of a registry.
type Mirror struct {
	// Endpoints are tried in this order, before the registry itself.
	Endpoints []Endpoint
	// Prefix is put before every repository at the endpoints, as the rewrite rule `^(.*)$: PREFIX/$1` says; without
	// slashes at its ends. "" changes nothing.
	Prefix string
}

// Endpoint is the API of a registry.
type Endpoint struct {
	Scheme string // http or https
	Host   string // host or host:port
	// Path is the root of the API, "/v2" as a rule.
	Path string
}

// Config says how to talk to a registry, be it as itself or as a mirror.
type Config struct {
	Auth Auth
	TLS  TLS
}

// Auth are credentials; of several kinds the first counts.
type Auth struct {
	Username, Password string
	// IdentityToken is an OAuth refresh token.
	IdentityToken string
	// Encoded is base64 of "username:password".
	Encoded string
}

// String hides the credentials from logs.
func (a Auth) String() string {
	if a == (Auth{}) {
		return "none"
	}
	return "(redacted)"
}

// GoString hides the credentials from %#v.
func (a Auth) GoString() string { return a.String() }

// header is the Authorization header of a; "" if a header cannot express it.
func (a Auth) header() string {
	switch {
	case a.Username != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password))
	case a.IdentityToken != "" || a.Encoded == "":
		return ""
	}
	return "Basic " + a.Encoded
}

// TLS is how a registry proves itself to us and we to it. Paths are absolute.
type TLS struct {
	CAFile string
	// CertFile may hold the key too; KeyFile is then "".
	CertFile, KeyFile  string
	InsecureSkipVerify bool
}

// IdentityTokens are the OAuth refresh tokens by host. A hosts.toml cannot carry these: they go to containerd's CRI
// plugin (registry.configs.HOST.auth.identitytoken), which reads them only when it starts.
func (s Settings) IdentityTokens() map[string]string {
	tokens := make(map[string]string)
	for host, c := range s.Configs {
		if c.Auth.Username != "" || c.Auth.IdentityToken == "" {
			continue
		}
		tokens[host] = c.Auth.IdentityToken
		if host == dockerHub { // containerd asks for the credentials of the host it talks to
			tokens[dockerHubAPI] = c.Auth.IdentityToken
		}
	}
	return tokens
}

// config is how to talk to a host: its own entry or the wildcard's.
func (s Settings) config(host string) Config {
	if c, ok := s.Configs[canonical(host)]; ok {
		return c
	}
	return s.Configs[Wildcard]
}

// mirror is the mirror of a registry: its own entry or the wildcard's.
func (s Settings) mirror(host string) Mirror {
	if m, ok := s.Mirrors[host]; ok {
		return m
	}
	return s.Mirrors[Wildcard]
}

// canonical gives Docker Hub one name.
func canonical(host string) string {
	switch host = strings.ToLower(host); host {
	case dockerHubAPI, "index.docker.io":
		return dockerHub
	}
	return host
}
