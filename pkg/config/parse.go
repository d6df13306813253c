package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"k8s.io/apimachinery/pkg/util/validation"
)

// boolean accepts what k3s's YAML 1.1 files held as well as Go's spellings.
// negate stores the opposite.
func boolean(negate bool) parser[bool] {
	return parser[bool]{"true or false", func(_ *Input, text string) (bool, error) {
		switch strings.ToLower(text) {
		case "true", "t", "1", "yes", "on":
			return !negate, nil
		case "false", "f", "0", "no", "off":
			return negate, nil
		}
		return false, errors.New("not a boolean")
	}, false}
}

// checked takes the texts for which ok holds; wrong says what the others are.
func checked(allowed, wrong string, ok func(string) bool) parser[string] {
	return parser[string]{allowed, func(_ *Input, text string) (string, error) {
		if !ok(text) {
			return "", errors.New(wrong)
		}
		return text, nil
	}, false}
}

// choice takes one of a few names.
func choice(names ...string) parser[string] {
	return parser[string]{oneOf(names), func(_ *Input, text string) (string, error) {
		for _, n := range names {
			if n == text {
				return text, nil
			}
		}
		if hint := nearest(text, names); hint != "" {
			return "", fmt.Errorf("not supported, did you mean %s", hint)
		}
		return "", errors.New("not supported")
	}, false}
}

// component takes the name of a packaged component.
func component() parser[string] {
	return choice(PackagedComponents()...)
}

// count takes a whole number from zero on.
func count() parser[int] {
	return parser[int]{"a whole number from 0", func(_ *Input, text string) (int, error) {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 0 {
			return 0, errors.New("not such a number")
		}
		return int(n), nil
	}, false}
}

func port() parser[uint16] {
	return parser[uint16]{"a port from 1 to 65535", parsePort, false}
}

func parsePort(_ *Input, text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("not a number")
	}
	if n < 1 || n > 65535 {
		return 0, errors.New("out of range")
	}
	return uint16(n), nil
}

func portRange() parser[PortRange] {
	return parser[PortRange]{"FIRST-LAST, ports from 1 to 65535", func(in *Input, text string) (PortRange, error) {
		first, last, ok := strings.Cut(text, "-")
		if !ok {
			return PortRange{}, errors.New("not a range")
		}
		var ends [2]uint16
		for i, end := range []string{first, last} {
			n, err := parsePort(in, end)
			if err != nil {
				return PortRange{}, fmt.Errorf("%q is %w", end, err)
			}
			ends[i] = n
		}
		if ends[0] > ends[1] {
			return PortRange{}, errors.New("the first port is above the last")
		}
		return PortRange{ends[0], ends[1]}, nil
	}, false}
}

// address takes an address to listen on.
func address() parser[netip.Addr] {
	return parser[netip.Addr]{"an IPv4 or IPv6 address", parseAddress, false}
}

func parseAddress(_ *Input, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("not an IP address")
	case a.Zone() != "":
		return netip.Addr{}, errors.New("has a zone")
	case a.IsMulticast():
		return netip.Addr{}, errors.New("a multicast address")
	}
	return a.Unmap(), nil
}

// reachable takes an address that others can reach, as the kubelet (node
// addresses, pkg/kubelet/nodestatus/setters.go) and the API (endpoints of the
// kubernetes Service) ask for.
func reachable() parser[netip.Addr] {
	p := parser[netip.Addr]{allowed: "an IPv4 or IPv6 address that other machines can reach"}
	p.parse = func(in *Input, text string) (netip.Addr, error) {
		a, err := parseAddress(in, text)
		switch {
		case err != nil:
			return a, err
		case a.IsUnspecified():
			return a, errors.New("the unspecified address")
		case a.IsLoopback():
			return a, errors.New("a loopback address")
		case a.IsLinkLocalUnicast():
			return a, errors.New("a link-local address")
		}
		return a, nil
	}
	return p
}

// serverURL takes https://HOST[:PORT] and gives it with its port.
func serverURL() parser[string] {
	return parser[string]{"https://HOST or https://HOST:PORT", func(_ *Input, text string) (string, error) {
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Scheme != "https" || u.Hostname() == "":
			return "", errors.New("not the URL of a server")
		case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			return "", errors.New("has more than a host and a port")
		}
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "6443")
		}
		if _, err := parsePort(nil, u.Port()); err != nil {
			return "", fmt.Errorf("port: %w", err)
		}
		u.Path = ""
		return u.String(), nil
	}, false}
}

func cidr() parser[netip.Prefix] {
	return parser[netip.Prefix]{"a range such as 10.42.0.0/16 or fd00:42::/56", func(_ *Input, text string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return p, errors.New("not a CIDR range")
		case p.Addr().Is4In6():
			return p, errors.New("an IPv4 address written as IPv6")
		case p.Masked() != p:
			return p, fmt.Errorf("not the start of a range, did you mean %s", p.Masked())
		}
		return p, nil
	}, false}
}

// file takes a path; a relative one is taken from the working directory.
func file() parser[string] {
	return parser[string]{"a path", func(in *Input, text string) (string, error) {
		if strings.ContainsRune(text, 0) {
			return "", errors.New("not a path")
		}
		return in.absolute(text), nil
	}, false}
}

// readable takes the path of a file that must be there.
func readable() parser[string] {
	return parser[string]{"the path of a readable file", func(in *Input, text string) (string, error) {
		name := in.absolute(text)
		if _, err := in.readFile(name); err != nil {
			return "", fmt.Errorf("cannot read it: %w", err)
		}
		return name, nil
	}, false}
}

// directory takes the path of a directory that must be there.
func directory() parser[string] {
	return parser[string]{"the path of a readable directory", func(in *Input, text string) (string, error) {
		name := in.absolute(text)
		if _, err := in.readDir(name); err != nil {
			return "", fmt.Errorf("cannot read it: %w", err)
		}
		return name, nil
	}, false}
}

// dataDir takes a path that is not the root.
func dataDir() parser[string] {
	p := file()
	p.allowed = "a path other than /"
	base := p.parse
	p.parse = func(in *Input, text string) (string, error) {
		name, err := base(in, text)
		if err == nil && name == "/" {
			return "", errors.New("the root directory")
		}
		return name, err
	}
	return p
}

// token takes a secret text, secretFile the path of a file that holds one.
func token() parser[Secret] {
	return parser[Secret]{"a text without spaces", parseToken, true}
}

func parseToken(_ *Input, text string) (Secret, error) {
	if text == "" {
		return Secret{}, errors.New("empty")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return Secret{}, errors.New("holds a space or a control character")
	}
	return NewSecret(text), nil
}

func secretFile() parser[Secret] {
	return parser[Secret]{"the path of a readable file that holds the token", func(in *Input, text string) (Secret, error) {
		data, err := in.readFile(in.absolute(text))
		if err != nil {
			return Secret{}, fmt.Errorf("cannot read it: %w", err)
		}
		s, err := parseToken(in, strings.TrimSpace(string(data)))
		if err != nil {
			return Secret{}, fmt.Errorf("its content is bad: %w", err)
		}
		return s, nil
	}, false}
}

// endpoint takes a datastore's address: kine's schemes, which stand before ://.
func endpoint() parser[Secret] {
	schemes := []string{"sqlite", "mysql", "postgres", "nats", "http", "https"}
	p := parser[Secret]{allowed: "SCHEME://..., the scheme " + oneOf(schemes), secret: true}
	p.parse = func(_ *Input, text string) (Secret, error) {
		for part := range strings.SplitSeq(text, ",") {
			scheme, rest, ok := strings.Cut(part, "://")
			if !ok {
				return Secret{}, errors.New("has no ://")
			}
			if scheme == "postgresql" {
				scheme = "postgres"
			}
			if _, err := choice(schemes...).parse(nil, scheme); err != nil {
				return Secret{}, fmt.Errorf("scheme %q is %w", scheme, err)
			}
			if rest == "" && scheme != "sqlite" {
				return Secret{}, errors.New("has nothing after ://")
			}
			if !strings.HasPrefix(scheme, "http") {
				break // commas separate the members of an etcd cluster only
			}
		}
		return NewSecret(text), nil
	}
	return p
}

// fileMode takes the permission bits in octal.
func fileMode() parser[fs.FileMode] {
	return parser[fs.FileMode]{"permissions in octal such as 600", func(_ *Input, text string) (fs.FileMode, error) {
		n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
		if err != nil || n > 0o777 {
			return 0, errors.New("not permissions")
		}
		return fs.FileMode(n), nil
	}, false}
}

// hostOrIP takes what a certificate can be for.
func hostOrIP() parser[string] {
	return checked("a DNS name or an IP address", "not what a certificate can be for", func(text string) bool {
		if _, err := netip.ParseAddr(text); err == nil {
			return true
		}
		text = strings.ToLower(text)
		return len(validation.IsDNS1123Subdomain(text)) == 0 || len(validation.IsWildcardDNS1123Subdomain(text)) == 0
	})
}

func domain() parser[string] {
	return checked("a DNS domain in lower case", "not a domain", func(text string) bool {
		return len(validation.IsDNS1123Subdomain(text)) == 0
	})
}

// iface takes a Linux interface name (dev_valid_name: under IFNAMSIZ, no slash,
// colon or space).
func iface() parser[string] {
	return checked("the name of a network interface", "not an interface name", func(text string) bool {
		return len(text) < 16 && text != "." && text != ".." && !strings.ContainsAny(text, "/: \t,")
	})
}

// handler takes the name of a runtime as a RuntimeClass has it.
func handler() parser[string] {
	return checked("the name of a runtime", "not a name", func(text string) bool {
		return len(validation.IsDNS1123Label(text)) == 0
	})
}

// socket takes a path or unix://PATH and gives unix://PATH.
func socket() parser[string] {
	return parser[string]{"unix:///PATH", func(_ *Input, text string) (string, error) {
		name := strings.TrimPrefix(text, "unix://")
		if !path.IsAbs(name) {
			return "", errors.New("not the path of a socket")
		}
		return "unix://" + path.Clean(name), nil
	}, false}
}

// image takes an image's name and gives its full name, docker.io included:
// containerd pins images only under that.
func image() parser[string] {
	return parser[string]{"the name of an image, with tag or digest", func(_ *Input, text string) (string, error) {
		ref, err := reference.ParseNormalizedNamed(text)
		if err != nil {
			return "", errors.New("not the name of an image")
		}
		return reference.TagNameOnly(ref).String(), nil
	}, false}
}

// registry takes a registry, a path below it allowed.
func registry() parser[string] {
	return checked("HOST[:PORT][/PATH], without https://", "not a registry", func(text string) bool {
		host, _, _ := strings.Cut(text, "/")
		ref, err := reference.ParseNormalizedNamed(text + "/x")
		return err == nil && reference.Domain(ref) == host
	})
}

// group takes a group's name or number.
func group() parser[string] {
	return checked("a group's name or number", "not a group", func(text string) bool {
		return !strings.ContainsAny(text, ": \t/,")
	})
}

// module takes one item of klog's vmodule.
func module() parser[string] {
	return checked("PATTERN=LEVEL", "not such a pair", func(text string) bool {
		pattern, level, ok := strings.Cut(text, "=")
		n, err := strconv.Atoi(level)
		return ok && pattern != "" && err == nil && n >= 0
	})
}
