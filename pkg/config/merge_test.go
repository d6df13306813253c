package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
)

const (
	mainFile = "/etc/knarr/config.yaml"
	dropA    = "/etc/knarr/config.yaml.d/10-a.yaml"
	dropB    = "/etc/knarr/config.yaml.d/20-b.yaml"
)

// TestMerge has the list of --tls-san for lists and --cluster-domain for single
// values, which is what the rules are about; all other flags go the same way.
func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name             string
		main, a, b       string
		args             []string
		wantList, domain string
	}{
		{name: "last value wins", main: "cluster-domain: m", a: "cluster-domain: a", b: "cluster-domain: b", domain: "b"},
		{name: "last list wins", main: "tls-san: [m1, m2]", a: "tls-san: [a]", wantList: "[a]"},
		{name: "keys of other files stay", main: "tls-san: [m]", a: "cluster-domain: a", wantList: "[m]", domain: "a"},
		{name: "a text is a list of one", main: "tls-san: m", wantList: "[m]"},
		{name: "commas separate", main: "tls-san: 'm1, m2'", a: "tls-san+: [a1, 'a2,a3']", wantList: "[m1 m2 a1 a2 a3]"},
		{name: "append list to list", main: "tls-san: [m]", a: "tls-san+: [a1, a2]", wantList: "[m a1 a2]"},
		{name: "append text to list", main: "tls-san: [m]", a: "tls-san+: a", wantList: "[m a]"},
		{name: "append list to text", main: "tls-san: m", a: "tls-san+: [a]", wantList: "[m a]"},
		{name: "append text to text", main: "tls-san: m", a: "tls-san+: a", wantList: "[m a]"},
		{name: "append to nothing", a: "tls-san+: [a]", wantList: "[a]"},
		{name: "append twice", main: "tls-san: [m]", a: "tls-san+: [a]", b: "tls-san+: [b]", wantList: "[m a b]"},
		{name: "without + the appended is replaced", main: "tls-san: [m]", a: "tls-san+: [a]", b: "tls-san: [b]", wantList: "[b]"},
		{name: "append after a replacement", main: "tls-san: [m]", a: "tls-san: [a]", b: "tls-san+: [b]", wantList: "[a b]"},
		{name: "append in one file", main: "tls-san: [m]\ntls-san+: [n]", wantList: "[m n]"},
		{name: "order is that of the names", a: "tls-san+: [a]", b: "tls-san+: [b]", wantList: "[a b]"},
		{name: "append to a single value: the last wins", main: "cluster-domain: m", a: "cluster-domain+: a", domain: "a"},
		{name: "empty list replaces", main: "tls-san: [m]", a: "tls-san: []", wantList: "[]"},
		{name: "key without value empties a list", main: "tls-san: [m]", a: "tls-san:", wantList: "[]"},
		{name: "items without value do not count", main: "tls-san: [m, '', ~, n]", wantList: "[m n]"},
		{name: "command line replaces the whole list", main: "tls-san: [m]", a: "tls-san+: [a]", args: []string{"tls-san=x", "tls-san=y"}, wantList: "[x y]"},
		{name: "command line empties the list", main: "tls-san: [m]", args: []string{"tls-san="}, wantList: "[]"},
		{name: "anchors", main: "x-unused: 1", wantList: "error"},
		{name: "aliases of YAML", main: "tls-san: &names [m, n]\n", a: "cluster-domain: &d a\ntls-san: [*d]", wantList: "[a]", domain: "a"},
		{name: "comments and empty files", main: "# nothing\n", a: "", b: "---\n", wantList: "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{mainFile: c.main, dropA: c.a, dropB: c.b}
			s, err := LoadServer(given{args: c.args, files: files}.input())
			if c.wantList == "error" {
				if err == nil {
					t.Error("want an error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.wantList == "" {
				c.wantList = "[]"
			}
			if c.domain == "" {
				c.domain = "cluster.local"
			}
			if s.Listener.TLSSANs.String() != c.wantList || s.Network.Domain != c.domain {
				t.Errorf("got %s and %s, want %s and %s", s.Listener.TLSSANs, s.Network.Domain, c.wantList, c.domain)
			}
		})
	}
}

// TestDocumentedExample is the example that k3s's users know the rules by.
func TestDocumentedExample(t *testing.T) {
	s := mustLoad(t, given{files: map[string]string{
		mainFile: "token: boop\nnode-label:\n  - foo=bar\n  - bar=baz\n",
		dropA:    "write-kubeconfig-mode: 600\nnode-taint:\n  - alice=bob:NoExecute\n",
		dropB:    "write-kubeconfig-mode: 777\nnode-label:\n  - other=what\n  - foo=three\nnode-taint+:\n  - charlie=delta:NoSchedule\n",
	}})
	got := fmt.Sprintf("%s %s %s %s", s.Token.Reveal(), s.Kubeconfig.Mode, s.Node.Labels, s.Node.Taints)
	if want := "boop -rwxrwxrwx [other=what foo=three] [alice=bob:NoExecute charlie=delta:NoSchedule]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAliasesAreKeys(t *testing.T) {
	s := mustLoad(t, given{files: map[string]string{
		mainFile: "kube-controller-arg: [a=1]\nt: short\n\"v\": 3\n",
		dropA:    "kube-controller-manager-arg+: [b=2]\n",
	}})
	if s.Args.ControllerManager.String() != "[a=1 b=2]" || s.Token.Reveal() != "short" || s.Logging.Verbosity != 3 {
		t.Errorf("%v %q %d", s.Args.ControllerManager, s.Token.Reveal(), s.Logging.Verbosity)
	}
}

func TestScalarsKeepTheirText(t *testing.T) {
	s := mustLoad(t, given{files: map[string]string{mainFile: `
write-kubeconfig-mode: 0644
debug: yes
selinux: True
protect-kernel-defaults: "true"
token: 12345678901234567890123
kubelet-arg: ["v=4", "feature-gates=A=true,B=false", 'a=b: c', --max-pods=50]
kube-apiserver-arg: --audit-log-maxage=7
`}})
	if s.Kubeconfig.Mode != 0o644 || !s.Logging.Debug || !s.Runtime.SELinux || !s.Node.ProtectKernelDefaults || s.Token.Reveal() != "12345678901234567890123" {
		t.Errorf("%+v, token %s", s, s.Token.Reveal())
	}
	if want := []string{"v=4", "feature-gates=A=true,B=false", "a=b: c", "max-pods=50"}; !reflect.DeepEqual(s.NodeArgs.Kubelet.Slice(), want) {
		t.Errorf("kubelet-arg %q, want %q", s.NodeArgs.Kubelet.Slice(), want)
	}
	if got := s.Args.APIServer.String(); got != "[audit-log-maxage=7]" {
		t.Errorf("kube-apiserver-arg %s", got)
	}
}

// FuzzFiles feeds any two files: whatever they hold, the answer is the same the
// second time, and it is a configuration or a list of problems that say where
// they are. A file after itself changes nothing, unless it appends.
func FuzzFiles(f *testing.F) {
	for _, seed := range [][2]string{
		{"", ""},
		{"tls-san: [a]", "tls-san+: [b]"},
		{"cluster-domain: a\ndebug: true", "cluster-domain: b"},
		{"a: &x [*x]", "- 1"},
		{"node-label:\n  - a=b\n  - {c: d}", "node-label+: ~"},
		{"---\ndebug: true\n---\n", "? [a]\n: b"},
		{"debug: \"\x00\"", "\xff\xfe"},
		{"<<: *y", "\ttab: 1"},
		{"cluster-cidr: 10.0.0.0/8\nservice-cidr: 10.1.0.0/16", "service-cidr: fd00::/112"},
		{"data-dir: ''\ntoken: ''", "--debug: true\nDEBUG: true"},
		{"{debug: true, debug: false}", "kubelet-arg: ['=', '-', 'a b=c']"},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		load := func(files map[string]string) (Server, error) { return LoadServer(given{files: files}.input()) }
		both := map[string]string{mainFile: string(first), dropA: string(second)}
		s, err := load(both)
		again, errAgain := load(both)
		if !reflect.DeepEqual(s, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
			t.Fatalf("two answers:\n%+v %v\n%+v %v", s, err, again, errAgain)
		}
		var bad *Error
		if err != nil && (!errors.As(err, &bad) || len(bad.Problems) == 0) {
			t.Fatalf("not a list of problems: %v", err)
		}
		if bad != nil {
			for _, p := range bad.Problems {
				if p.Where == "" || p.What == "" {
					t.Fatalf("problem without place or text: %+v", p)
				}
			}
		}
		one, err := load(map[string]string{mainFile: string(first), dropA: ""})
		if err != nil || containsPlus(first) {
			return
		}
		twice, err := load(map[string]string{mainFile: string(first), dropA: string(first)})
		if err != nil || !reflect.DeepEqual(one, twice) {
			t.Fatalf("a file after itself changed something: %v\n%+v\n%+v", err, one, twice)
		}
	})
}

// containsPlus reports whether a file may hold a `key+`, be it escaped.
func containsPlus(data []byte) bool { return bytes.ContainsAny(data, `+\`) }
