package registry

import (
	"encoding/base64"
	"strings"
)

// Place is one that is asked for what is in a registry: a mirror, or the registry itself.
type Place struct {
	// URL is the root of its API. What follows "/v2" in a request to the registry follows it.
	URL string
	// Mirror is false for the registry itself.
	Mirror bool
	Config
}

// Places are those that are asked for what is in registry, host or host:port, one after the other until one has it, as
// containerd does by what [Settings.Files] tells it.
func (s Settings) Places(registry string, noDefault bool) []Place {
	registry = canonical(registry)
	m := s.mirror(registry)
	var places []Place
	for _, e := range m.Endpoints {
		places = append(places, Place{URL: e.url(m.Prefix), Mirror: true, Config: s.config(e.Host)})
	}
	if noDefault && len(places) > 0 {
		return places
	}
	host := registry
	if host == dockerHub {
		host = dockerHubAPI
	}
	return append(places, Place{URL: "https://" + host + "/v2", Config: s.config(registry)})
}

// Basic is the user and the password; "" for none.
func (a Auth) Basic() (username, password string) {
	if a.Username != "" || a.IdentityToken != "" || a.Encoded == "" {
		return a.Username, a.Password
	}
	text, err := base64.StdEncoding.DecodeString(a.Encoded)
	if err != nil {
		return "", "" // Parse has looked
	}
	username, password, _ = strings.Cut(string(text), ":")
	return username, password
}
