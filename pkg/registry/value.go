package registry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// validHost accepts HOST and HOST:PORT.
func validHost(text string) bool {
	u, err := url.Parse("https://" + text)
	return err == nil && text != "" && u.Host == text && u.Hostname() != "" && !strings.ContainsAny(text, `*@\`)
}

// parseEndpoint understands the URL of a mirror as k3s does: without a scheme it is https, or http on this host; without
// a path, or with /v2, it is a registry; any other path is the root of the API as it stands.
func parseEndpoint(text string) (Endpoint, error) {
	full := text
	if !strings.Contains(text, "://") {
		full = "https://" + text
	}
	u, err := url.Parse(full)
	switch {
	case err != nil:
		return Endpoint{}, errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return Endpoint{}, fmt.Errorf("the scheme %s is neither http nor https", u.Scheme)
	case u.User != nil:
		return Endpoint{}, errors.New("credentials belong into configs")
	case !validHost(u.Host):
		return Endpoint{}, errors.New("not a URL with a host")
	case u.RawQuery != "" || u.Fragment != "":
		return Endpoint{}, errors.New("a query or a fragment has no meaning here")
	}
	if full != text && loopback(u.Hostname()) {
		u.Scheme = "http"
	}
	root := strings.TrimSuffix(path.Clean("/"+u.EscapedPath()), "/")
	return Endpoint{Scheme: u.Scheme, Host: u.Host, Path: cmp.Or(root, "/v2")}, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// url is the endpoint with every repository under prefix.
func (e Endpoint) url(prefix string) string {
	return e.Scheme + "://" + e.Host + strings.TrimSuffix(path.Join(e.Path, prefix), "/")
}

// isHost tells whether e is the API of the registry itself.
func (e Endpoint) isHost(registry string) bool {
	host, port, err := net.SplitHostPort(e.Host)
	if err != nil || port != "443" {
		host = e.Host
	}
	return e.Scheme == "https" && e.Path == "/v2" && canonical(host) == registry
}

// prefixRule is the one kind of rewrite that needs no change to containerd: all names go under a prefix.
var prefixRule = regexp.MustCompile(`^\^?(?:\(\.[*+]\)\$?)?$`)

// prefixResult is its replacement.
var prefixResult = regexp.MustCompile(`^([a-z0-9][a-z0-9._/-]*/)?(?:\$1|\$\{1\})?$`)

// rewrite reads the map of rewrite rules; all of them must say the same: put the prefix before every name.
func (p *parser) rewrite(n *yaml.Node) (prefix string) {
	for i, e := range p.entries(n, "rewrite") {
		to, ok := p.text(e.value, "rewrite")
		if !ok {
			continue
		}
		found, err := prefixOf(e.key.Value, to)
		switch {
		case err != nil:
			p.report(e.key, "rewrite %q: %v", e.key.Value, err)
		case i > 0 && found != prefix:
			p.report(e.key, "rewrite %q: a mirror can have one rewrite", e.key.Value)
		default:
			prefix = found
		}
	}
	return prefix
}

// prefixOf understands one rewrite rule.
func prefixOf(pattern, replacement string) (string, error) {
	if _, err := regexp.Compile(pattern); err != nil {
		return "", fmt.Errorf("not a regular expression: %w", err)
	}
	grouped := strings.Contains(pattern, "(")
	result := prefixResult.FindStringSubmatch(replacement)
	if !prefixRule.MatchString(pattern) || pattern == "" || result == nil || grouped != strings.Contains(replacement, "$") {
		return "", errors.New("containerd can only put a prefix before all names: want `\"^(.*)$\": PREFIX/$1`")
	}
	return strings.Trim(result[1], "/"), nil
}

// shown is a URL for a message, without what may be a password.
func shown(text string) string {
	if i := strings.LastIndex(text, "@"); i >= 0 {
		text = "..." + text[i:]
	}
	return strconv.Quote(text)
}

// check reads the certificates and says all that is wrong with them.
func (t TLS) check(readFile func(string) ([]byte, error)) (errs []error) {
	report := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if t.CAFile != "" {
		pem, err := readFile(t.CAFile)
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%s: no PEM certificate in it", t.CAFile)
		}
		report("ca_file", err)
	}
	switch {
	case t.CertFile != "":
		cert, err := readFile(t.CertFile)
		report("cert_file", err)
		key, keyErr := readFile(cmp.Or(t.KeyFile, t.CertFile))
		if t.KeyFile != "" {
			report("key_file", keyErr)
		}
		if err == nil && keyErr == nil {
			_, err := tls.X509KeyPair(cert, key)
			report("cert_file and key_file", err)
		}
	case t.KeyFile != "":
		report("key_file", errors.New("without cert_file"))
	}
	return errs
}
