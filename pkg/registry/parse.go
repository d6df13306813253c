package registry

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/knarr-io/knarr/pkg/config"
)

// Load reads a registries.yaml and checks that the certificates it names can be used. A file that does not exist is an
// empty one. The error of a bad file is a [*config.Error] with all that is wrong.
func Load(path string) (Settings, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Settings{}, nil
	}
	if err != nil {
		return Settings{}, fmt.Errorf("read the registry configuration: %w", err)
	}
	return Parse(path, data, os.ReadFile)
}

// Parse understands the content of a registries.yaml; name is its path for messages. Certificates are read through
// readFile; nil leaves them unchecked. The error is a [*config.Error] with all that is wrong, from top to bottom, and
// then the Settings are zero.
func Parse(name string, data []byte, readFile func(string) ([]byte, error)) (Settings, error) {
	p := &parser{name: name, readFile: readFile}
	s := Settings{Mirrors: make(map[string]Mirror), Configs: make(map[string]Config)}
	if root := p.document(data); root != nil {
		p.object(root, "", []field{
			{"mirrors", func(n *yaml.Node) { registries(p, n, s.Mirrors, p.mirror) }},
			{"configs", func(n *yaml.Node) { registries(p, n, s.Configs, p.config) }},
		})
		if a := s.Configs[Wildcard].Auth; a != (Auth{}) {
			p.report(p.wildcardAuth, "credentials for %q would be sent to every registry there is; name the registries they are for", Wildcard)
		}
	}
	if len(p.problems) == 0 {
		return s, nil
	}
	slices.SortStableFunc(p.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	e := &config.Error{}
	for _, at := range p.problems {
		where := name
		if at.line > 0 {
			where = fmt.Sprintf("%s:%d", name, at.line)
		}
		e.Problems = append(e.Problems, config.Problem{Where: where, What: at.what})
	}
	return Settings{}, e
}

// parser is the state of one Parse.
type parser struct {
	name         string
	readFile     func(string) ([]byte, error)
	problems     []problem
	wildcardAuth *yaml.Node
}

type problem struct {
	line int // 0 for the whole file
	what string
}

func (p *parser) report(n *yaml.Node, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	p.problems = append(p.problems, problem{line, fmt.Sprintf(format, args...)})
}

// document is the root of the file, nil when the file is empty or not YAML.
func (p *parser) document(data []byte) *yaml.Node {
	var doc, next yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		p.report(nil, "not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		p.report(&next, "more than one YAML document; want one")
	}
	return resolve(doc.Content[0])
}

// field is a key that an object may have.
type field struct {
	key  string
	read func(value *yaml.Node)
}

// object reads a mapping with known keys; what names it in messages ("" is the file). The value of a key that stands
// there without one is not read, as if the key were missing.
func (p *parser) object(n *yaml.Node, what string, fields []field) {
	for _, e := range p.entries(n, cmp.Or(what, "the file")) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key.Value })
		if i < 0 {
			keys := make([]string, len(fields))
			for i, f := range fields {
				keys[i] = f.key
			}
			p.report(e.key, "unknown key %q; %s takes %s", e.key.Value, cmp.Or(what, "the file"), strings.Join(keys, ", "))
			continue
		}
		if e.value.Tag != "!!null" {
			fields[i].read(e.value)
		}
	}
}

type entry struct{ key, value *yaml.Node }

// entries lists a mapping, with merge keys (<<) taken in, and reports keys that stand there twice.
func (p *parser) entries(n *yaml.Node, what string) []entry {
	if n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		p.report(n, "%s is not a mapping; want lines of `key: value`", what)
		return nil
	}
	var list, merged []entry
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), resolve(n.Content[i+1])
		switch line, again := seen[key.Value]; {
		case key.Tag == "!!merge":
			merged = append(merged, p.merged(value, what)...)
		case key.Kind != yaml.ScalarNode:
			p.report(key, "a key of %s is not a name", what)
		case again:
			p.report(key, "%q stands here for the second time; the first is in line %d", key.Value, line)
		default:
			seen[key.Value] = key.Line
			list = append(list, entry{key, value})
		}
	}
	for _, e := range merged {
		if _, own := seen[e.key.Value]; !own {
			seen[e.key.Value] = e.key.Line
			list = append(list, e)
		}
	}
	return list
}

// merged lists what a merge key brings along: the entries of one mapping, or of several of which the first wins.
func (p *parser) merged(n *yaml.Node, what string) []entry {
	if n.Kind != yaml.SequenceNode {
		return p.entries(n, what)
	}
	var list []entry
	for _, item := range n.Content {
		list = append(list, p.entries(resolve(item), what)...)
	}
	return list
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// registries reads a mapping of registries.
func registries[T any](p *parser, n *yaml.Node, into map[string]T, read func(key, value *yaml.Node) T) {
	lines := make(map[string]int)
	for _, e := range p.entries(n, "this") {
		host := canonical(e.key.Value)
		if host != Wildcard && !validHost(host) {
			p.report(e.key, "%q is not a registry; want HOST or HOST:PORT, without a scheme or a path, or %q", e.key.Value, Wildcard)
			continue
		}
		if line, again := lines[host]; again {
			p.report(e.key, "%q is the registry of line %d", e.key.Value, line)
			continue
		}
		lines[host] = e.key.Line
		into[host] = read(e.key, e.value)
	}
}

func (p *parser) mirror(key, value *yaml.Node) Mirror {
	var m Mirror
	p.object(value, "the mirror of "+key.Value, []field{
		{"endpoint", func(n *yaml.Node) { m.Endpoints = p.endpoints(n) }},
		{"rewrite", func(n *yaml.Node) { m.Prefix = p.rewrite(n) }},
	})
	return m
}

func (p *parser) endpoints(n *yaml.Node) []Endpoint {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	var list []Endpoint
	for _, item := range items {
		item = resolve(item)
		text, ok := p.text(item, "endpoint")
		if !ok {
			continue
		}
		e, err := parseEndpoint(text)
		if err != nil {
			p.report(item, "endpoint %s: %v", shown(text), err)
			continue
		}
		if !slices.Contains(list, e) {
			list = append(list, e)
		}
	}
	return list
}

func (p *parser) config(key, value *yaml.Node) Config {
	var c Config
	p.object(value, "the configuration of "+key.Value, []field{
		{"auth", func(n *yaml.Node) {
			c.Auth = p.auth(n)
			if key.Value == Wildcard {
				p.wildcardAuth = n
			}
		}},
		{"tls", func(n *yaml.Node) { c.TLS = p.tls(n) }},
	})
	return c
}

func (p *parser) auth(n *yaml.Node) Auth {
	var a Auth
	texts := map[string]*string{"username": &a.Username, "password": &a.Password, "auth": &a.Encoded,
		"identity_token": &a.IdentityToken, "token": &a.IdentityToken}
	p.object(n, "auth", p.strings(texts, func(*yaml.Node, string) {}))
	switch {
	case (a.Username == "") != (a.Password == ""):
		p.report(n, "auth: username and password go together")
	case strings.Contains(a.Username, ":"):
		p.report(n, "auth: a username cannot contain a colon")
	}
	if a.Encoded != "" {
		decoded, err := base64.StdEncoding.DecodeString(a.Encoded)
		if user, password, ok := strings.Cut(string(decoded), ":"); err != nil || !ok || user == "" || password == "" {
			p.report(n, "auth: auth is not the base64 of USERNAME:PASSWORD")
		}
	}
	return a
}

// strings makes fields of texts, in the order of their keys, each checked.
func (p *parser) strings(texts map[string]*string, check func(n *yaml.Node, text string)) []field {
	var fields []field
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		fields = append(fields, field{key, func(n *yaml.Node) {
			text, ok := p.text(n, key)
			if ok {
				*texts[key] = text
				check(n, text)
			}
		}})
	}
	return fields
}

// text is a scalar as it is written, so that a password of digits needs no quotes.
func (p *parser) text(n *yaml.Node, key string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.report(n, "%s is not a text", key)
		return "", false
	}
	if strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		p.report(n, "%s contains a control character", key)
		return "", false
	}
	return n.Value, true
}

func (p *parser) tls(n *yaml.Node) TLS {
	var t TLS
	files := map[string]*string{"ca_file": &t.CAFile, "cert_file": &t.CertFile, "key_file": &t.KeyFile}
	good := true
	fields := p.strings(files, func(n *yaml.Node, text string) {
		if text != "" && !filepath.IsAbs(text) {
			p.report(n, "%q is not an absolute path", text)
			good = false
		}
	})
	p.object(n, "tls", append(fields, field{"insecure_skip_verify", func(n *yaml.Node) {
		if err := n.Decode(&t.InsecureSkipVerify); err != nil {
			p.report(n, "insecure_skip_verify is neither true nor false")
		}
	}}))
	if good && p.readFile != nil {
		for _, err := range t.check(p.readFile) {
			p.report(n, "tls: %v", err)
		}
	}
	return t
}
