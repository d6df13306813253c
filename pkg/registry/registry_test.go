package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/tests/golden"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFiles(t *testing.T) {
	for _, name := range []string{"mirrors", "wildcard"} {
		s, err := Parse(name+".yaml", read(t, name+".yaml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for suffix, noDefault := range map[string]bool{"": false, "-no-default": true} {
			t.Run(name+suffix, func(t *testing.T) {
				files := s.Files(noDefault)
				var b strings.Builder
				for _, f := range slices.Sorted(maps.Keys(files)) {
					fmt.Fprintf(&b, "==> %s\n%s\n", f, files[f])
				}
				golden.Check(t, filepath.Join("testdata", name+suffix+".txt"), b.String())
			})
		}
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	missing := func(name string) ([]byte, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	s, err := Parse("/etc/knarr/registries.yaml", read(t, "bad.yaml"), missing)
	var bad *config.Error
	if !errors.As(err, &bad) {
		t.Fatalf("error is %v", err)
	}
	if s.Mirrors != nil || s.Configs != nil {
		t.Error("a bad file has settings")
	}
	golden.Check(t, filepath.Join("testdata", "bad.txt"), err.Error()+"\n")
}

func TestParse(t *testing.T) {
	tests := []struct{ name, text, err string }{
		{"empty", "", ""},
		{"comment", "# nothing\n", ""},
		{"null", "~\n", ""},
		{"empty sections", "mirrors:\nconfigs:\n", ""},
		{"no YAML", "a: [", "r.yaml: not YAML"},
		{"list", "- a\n", "r.yaml:1: the file is not a mapping"},
		{"scalar section", "mirrors: docker.io\n", "r.yaml:1: this is not a mapping"},
		{"two documents", "mirrors:\n---\nconfigs:\n", "more than one YAML document"},
		{"key is a mapping", "? {a: b}\n: c\n", "is not a name"},
		{"merge of a list", "configs:\n  a: &a {tls: {insecure_skip_verify: true}}\n  b: {<<: [*a]}\n", ""},
		{"merge of text", "configs:\n  a: {<<: x}\n", "is not a mapping"},
		{"host with a path", "configs:\n  a/b: {}\n", `"a/b" is not a registry`},
		{"no host", "configs:\n  \":5000\": {}\n", "is not a registry"},
		{"IPv6", "mirrors:\n  \"[::1]:5000\": {endpoint: [\"[::1]:5001\"]}\n", ""},
		{"endpoints not texts", "mirrors:\n  a: {endpoint: {b: c}}\n", "endpoint is not a text"},
		{"username alone", "configs:\n  a: {auth: {username: u}}\n", "username and password go together"},
		{"auth without a password", "configs:\n  a: {auth: {auth: dQ==}}\n", "base64 of USERNAME:PASSWORD"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("r.yaml", []byte(tt.text), nil)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestEndpoints(t *testing.T) {
	tests := []struct{ text, prefix, want string }{
		{"a.example.com", "", "https://a.example.com/v2"},
		{"a.example.com:5000/", "p", "https://a.example.com:5000/v2/p"},
		{"localhost:5000", "", "http://localhost:5000/v2"},
		{"https://localhost:5000", "", "https://localhost:5000/v2"},
		{"127.0.0.9", "", "http://127.0.0.9/v2"},
		{"[::1]:5000", "", "http://[::1]:5000/v2"},
		{"http://a/v2/", "", "http://a/v2"},
		{"http://a/v2/cache//x/", "p/q", "http://a/v2/cache/x/p/q"},
		{"http://a/root", "", "http://a/root"},
	}
	for _, tt := range tests {
		e, err := parseEndpoint(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := e.url(tt.prefix); got != tt.want {
			t.Errorf("%s with %q is %s, want %s", tt.text, tt.prefix, got, tt.want)
		}
	}
}

func TestPrefixRules(t *testing.T) {
	tests := []struct{ pattern, replacement, want string }{
		{"^(.*)$", "a/b/$1", "a/b"},
		{"(.*)", "a/$1", "a"},
		{"^(.+)", "a/${1}", "a"},
		{"^", "a/", "a"},
		{"^(.*)$", "$1", ""},
		{"^(.*)$", "a$1", "!"},
		{"^(.*)$", "a/", "!"},
		{"^", "a/$1", "!"},
		{"", "a/", "!"},
		{"(.*)", "$1/a", "!"},
		{"library/(.*)", "a/$1", "!"},
		{"(.*)/x", "a/$1", "!"},
		{"((", "a/$1", "!"},
	}
	for _, tt := range tests {
		got, err := prefixOf(tt.pattern, tt.replacement)
		if err != nil {
			got = "!"
		}
		if got != tt.want {
			t.Errorf("%s: %s gives %q (%v), want %q", tt.pattern, tt.replacement, got, err, tt.want)
		}
	}
}

func TestIdentityTokens(t *testing.T) {
	s, err := Parse("r.yaml", []byte(`{configs: {docker.io: {auth: {token: a}}, b: {auth: {identity_token: b}},
		c: {auth: {username: u, password: p, identity_token: c}}, d: {}}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"docker.io": "a", "registry-1.docker.io": "a", "b": "b"}
	if got := s.IdentityTokens(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, s.Configs["c"].Auth); text != "(redacted)" {
			t.Errorf("%s shows %s", format, text)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "registries.yaml")
	if s, err := Load(file); err != nil || len(s.Files(false)) != 0 {
		t.Errorf("a missing file gives %v, %v", s, err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory is no error")
	}
	ca, both := certificate(t, dir)
	write := func(tls string) {
		if err := os.WriteFile(file, []byte("configs:\n  a:\n    tls: {"+tls+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct{ tls, err string }{
		{"ca_file: " + ca, ""},
		{"cert_file: " + both, ""},
		{"cert_file: " + both + ", key_file: " + both, ""},
		{"cert_file: " + ca, "cert_file and key_file: "},
		{"cert_file: " + ca + ", key_file: " + dir + "/no", "key_file: open "},
		{"ca_file: " + file, "no PEM certificate in it"},
		{"ca_file: " + dir + "/no", "no such file"},
	}
	for _, tt := range tests {
		write(tt.tls)
		_, err := Load(file)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %q", tt.tls, err, tt.err)
		}
	}
}
