package helm

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/knarr-io/knarr/pkg/registry"
)

// registries is what registries.yaml says, which holds for charts as for images.
type registries struct {
	settings func() (registry.Settings, error)
	// noDefault has a registry that has mirrors not be asked itself.
	noDefault bool
}

// places are those to pull from, with what is known for each.
func (r registries) places(host string, a access) ([]access, error) {
	if r.settings == nil {
		return []access{a}, nil
	}
	settings, err := r.settings()
	if err != nil {
		return nil, err
	}
	var all []access
	for _, p := range settings.Places(host, r.noDefault) {
		at, err := a.at(p, host)
		if err != nil {
			return nil, err
		}
		all = append(all, at)
	}
	return all, nil
}

// at is how a place of the registry host is talked to. A mirror gets nothing of what the HelmChart says about the registry;
// to the registry itself, what the HelmChart says comes first.
func (a access) at(p registry.Place, host string) (access, error) {
	if p.Mirror {
		root, err := url.Parse(p.URL)
		if err != nil {
			return a, permanent{fmt.Errorf("read the URL of a mirror of %s in registries.yaml: %w", host, err)}
		}
		a = access{mirror: root, mirrored: host}
	}
	if a.username == "" && a.dockerConfig == nil {
		a.username, a.password = p.Auth.Basic()
		a.refreshToken = p.Auth.IdentityToken
	}
	a.insecure = a.insecure || p.TLS.InsecureSkipVerify
	if len(a.ca) == 0 && p.TLS.CAFile != "" {
		ca, err := os.ReadFile(p.TLS.CAFile)
		if err != nil {
			return a, fmt.Errorf("read the CA of %s in registries.yaml: %w", host, err)
		}
		a.ca = ca
	}
	if p.TLS.CertFile != "" {
		key := p.TLS.KeyFile
		if key == "" {
			key = p.TLS.CertFile
		}
		pair, err := tls.LoadX509KeyPair(p.TLS.CertFile, key)
		if err != nil {
			return a, fmt.Errorf("read the certificate for %s in registries.yaml: %w", host, err)
		}
		a.certificates = []tls.Certificate{pair}
	}
	return a, nil
}

// rerouted sends requests to one registry to another root.
type rerouted struct {
	host string
	root *url.URL
	next http.RoundTripper
}

// RoundTrip passes the request on, as it is if it is to somebody else: a token server, or where the registry redirects to.
func (r rerouted) RoundTrip(req *http.Request) (*http.Response, error) {
	if !strings.EqualFold(req.URL.Host, r.host) {
		return r.next.RoundTrip(req)
	}
	there := req.Clone(req.Context())
	there.URL.Scheme, there.URL.Host, there.Host = r.root.Scheme, r.root.Host, r.root.Host
	if rest, ok := strings.CutPrefix(req.URL.Path, "/v2"); ok {
		there.URL.Path = strings.TrimSuffix(r.root.Path, "/") + rest
	}
	resp, err := r.next.RoundTrip(there)
	if err != nil {
		return nil, fmt.Errorf("ask the mirror %s: %w", r.root.Host, err)
	}
	resp.Request = req // redirections are relative to what was asked for
	return resp, nil
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (r rerouted) CloseIdleConnections() {
	if c, ok := r.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// fromEach asks one place after the other.
func fromEach(places []access, pull func(access) ([]byte, error)) ([]byte, error) {
	var errs []error
	for _, a := range places {
		data, err := pull(a)
		if err == nil {
			return data, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
