package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func TestSecretDoesNotShow(t *testing.T) {
	const text = "hunter2"
	s := NewSecret(text)
	type hidden struct{ inner Secret }
	var shown []string
	for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q", "%x", "%d", "%T %v"} {
		values := []any{s, &s, hidden{s}, []Secret{s}, map[string]Secret{"k": s}, Server{Common: Common{Token: s}}}
		for _, v := range values {
			shown = append(shown, fmt.Sprintf(verb, v))
		}
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "secret", s, "config", Server{Common: Common{Token: s}})
	}
	shown = append(shown, log.String())
	for _, v := range []any{s, Server{Datastore: Datastore{Endpoint: s}}} {
		asJSON, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		asYAML, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, string(asJSON), string(asYAML))
	}
	hex := fmt.Sprintf("%x", text)
	for _, out := range shown {
		if strings.Contains(out, text) || strings.Contains(out, hex) {
			t.Errorf("shows itself: %s", out)
		}
	}
	if s.Reveal() != text || !s.IsSet() || s.String() != "(redacted)" {
		t.Errorf("reveals %q, is %v", s.Reveal(), s)
	}
	if none := NewSecret(""); none.IsSet() || none.Reveal() != "" || none.String() != "" || none != (Secret{}) {
		t.Errorf("no secret is %v", none)
	}
}

// TestConfigurationIsAValue looks at the types: whatever is reachable in a
// Server is a plain value, or a type of which the content cannot be changed.
func TestConfigurationIsAValue(t *testing.T) {
	sealed := []reflect.Type{reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix](), reflect.TypeFor[Secret]()}
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		switch {
		case slices.Contains(sealed, typ):
		case strings.HasPrefix(typ.Name(), "List["):
			walk(path+"[]", typ.Field(0).Type.Elem())
		case typ.Kind() == reflect.Struct:
			for i := range typ.NumField() {
				walk(path+"."+typ.Field(i).Name, typ.Field(i).Type)
			}
		case typ.Kind() >= reflect.Bool && typ.Kind() <= reflect.Float64, typ.Kind() == reflect.String:
		default:
			t.Errorf("%s is a %s, which copies would share", path, typ)
		}
	}
	walk("Server", reflect.TypeFor[Server]())
	walk("Agent", reflect.TypeFor[Agent]())
}

func TestListSharesNothing(t *testing.T) {
	source := []string{"a", "b"}
	l := ListOf(source...)
	source[0] = "changed"
	l.Slice()[0] = "changed"
	_ = append(l.Slice(), "c")
	copied := l
	_ = append(copied.Slice(), "d")
	if l.String() != "[a b]" || l.Len() != 2 || l.At(1) != "b" {
		t.Errorf("list is %v", l)
	}
	for i, item := range l.All() {
		if item != l.At(i) {
			t.Errorf("item %d is %s", i, item)
		}
	}
	var none List[int]
	if none.Slice() != nil || none.Len() != 0 {
		t.Errorf("empty list is %v", none.Slice())
	}
	for list, want := range map[*List[int]]string{{}: "[]", new(ListOf(1, 2)): "[1,2]"} {
		if got, err := json.Marshal(list); err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}

// TestLoadChangesNothing loads twice from the same input, spoils what the first
// one gave out, and compares.
func TestLoadChangesNothing(t *testing.T) {
	in := given{args: []string{"tls-san=a,b", "kubelet-arg=--v=4"}, files: map[string]string{mainFile: "node-label: [a=b]\n"}}.input()
	before := slices.Clone(in.CommandLine)
	first, err := LoadServer(in)
	if err != nil {
		t.Fatal(err)
	}
	kept := first
	first.Listener.TLSSANs.Slice()[0] = "spoilt"
	first.ClusterDNS().Slice()[0] = netip.Addr{}
	first.Node = Node{}
	second, err := LoadServer(in)
	if err != nil || !reflect.DeepEqual(kept, second) || !slices.Equal(before, in.CommandLine) {
		t.Errorf("%v\n%+v\n%+v", err, kept, second)
	}
	flags := Table()
	flags[0].Default = "spoilt"
	if Table()[0].Default == "spoilt" {
		t.Error("the table can be changed")
	}
}

func TestAddresses(t *testing.T) {
	const dual6 = "cluster-cidr=fd00:42::/56,10.42.0.0/16"
	const dual6s = "service-cidr=fd00:43::/112,10.43.0.0/16"
	for _, c := range []struct {
		name, listen, url, dns, api, advertise string
		args                                   []string
	}{
		{"defaults", "0.0.0.0:6443", "https://127.0.0.1:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.1", nil},
		{"port", "0.0.0.0:443", "https://127.0.0.1:443", "[10.43.0.10]", "10.43.0.1", "192.0.2.1", []string{"https-listen-port=443"}},
		{"one address", "192.0.2.9:6443", "https://192.0.2.9:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.1", []string{"bind-address=192.0.2.9"}},
		{"loopback", "127.0.0.1:6443", "https://127.0.0.1:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.1", []string{"bind-address=127.0.0.1"}},
		{"everywhere, said", "[::]:6443", "https://[::1]:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.1", []string{"bind-address=::"}},
		{"dual stack", "[::]:6443", "https://127.0.0.1:6443", "[10.43.0.10 fd00:43::a]", "10.43.0.1", "192.0.2.1",
			[]string{"cluster-cidr=10.42.0.0/16,fd00:42::/56", "service-cidr=10.43.0.0/16,fd00:43::/112"}},
		{"dual stack, IPv6 first", "[::]:6443", "https://[::1]:6443", "[fd00:43::a 10.43.0.10]", "fd00:43::1", "2001:db8::1", []string{dual6, dual6s}},
		{"DNS of the user's", "0.0.0.0:6443", "https://127.0.0.1:6443", "[10.43.0.53]", "10.43.0.1", "192.0.2.1", []string{"cluster-dns=10.43.0.53"}},
		{"other services", "0.0.0.0:6443", "https://127.0.0.1:6443", "[10.96.0.10]", "10.96.0.1", "192.0.2.1", []string{"service-cidr=10.96.0.0/12"}},
		{"node address", "0.0.0.0:6443", "https://127.0.0.1:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.2", []string{"node-ip=192.0.2.2"}},
		{"external address", "0.0.0.0:6443", "https://127.0.0.1:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.3", []string{"node-ip=192.0.2.2", "node-external-ip=192.0.2.3"}},
		{"external address of the other family", "0.0.0.0:6443", "https://127.0.0.1:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.2",
			[]string{"node-ip=192.0.2.2", "node-external-ip=2001:db8::3"}},
		{"advertised", "0.0.0.0:6443", "https://127.0.0.1:6443", "[10.43.0.10]", "10.43.0.1", "192.0.2.4",
			[]string{"node-ip=192.0.2.2", "node-external-ip=192.0.2.3", "advertise-address=192.0.2.4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustLoad(t, given{args: c.args})
			host := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")}
			got := []string{s.ListenAddress().String(), s.APIServerURL(), s.ClusterDNS().String(), s.Network.APIServiceIP().String(), s.AdvertiseAddress(host...).String()}
			if want := []string{c.listen, c.url, c.dns, c.api, c.advertise}; !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
	s := mustLoad(t, given{})
	if a := s.AdvertiseAddress(netip.MustParseAddr("2001:db8::1")); a.IsValid() {
		t.Errorf("advertises %s in an IPv4 cluster", a)
	}
}

func TestDerivedNames(t *testing.T) {
	s := mustLoad(t, given{args: []string{"node-name=Node-1"}})
	if got := s.NodeName("0123abcd"); got != "node-1" {
		t.Errorf("node name %s", got)
	}
	s = mustLoad(t, given{args: []string{"node-name=Node-1", "with-node-id"}})
	if got := s.NodeName("0123abcd"); got != "node-1-0123abcd" {
		t.Errorf("node name with id %s", got)
	}
	for registry, want := range map[string]string{
		"": "docker.io/knarr/pause:1", "r.example.com:5000": "r.example.com:5000/knarr/pause:1", "r.example.com/mirror": "r.example.com/mirror/knarr/pause:1",
	} {
		s := mustLoad(t, given{args: []string{"system-default-registry=" + registry}})
		if got := s.SystemImage("docker.io/knarr/pause:1"); got != want {
			t.Errorf("%s: image %s, want %s", registry, got, want)
		}
	}
	for text, want := range map[string]string{"busybox": "docker.io/library/busybox:latest", "r.example.com/a/b@sha256:" + strings.Repeat("0", 64): "r.example.com/a/b@sha256:" + strings.Repeat("0", 64)} {
		if got := mustLoad(t, given{args: []string{"pause-image=" + text}}).Runtime.PauseImage; got != want {
			t.Errorf("pause image %s, want %s", got, want)
		}
	}
	s = mustLoad(t, given{args: []string{"log=k.log", "data-dir=../x/./y"}})
	if s.Logging.File != "/home/me/k.log" || s.DataDir != "/home/x/y" {
		t.Errorf("paths %s and %s", s.Logging.File, s.DataDir)
	}
	if r := (PortRange{1, 2}); r.String() != "1-2" || !r.Contains(1) || !r.Contains(2) || r.Contains(3) {
		t.Error("port range")
	}
}

func TestSplitArg(t *testing.T) {
	for arg, want := range map[string]string{"a=b=c": "a|b=c|true", "a=": "a||true", "a": "a||false"} {
		key, value, has := SplitArg(arg)
		if got := fmt.Sprintf("%s|%s|%v", key, value, has); got != want {
			t.Errorf("%s: got %s, want %s", arg, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"c", "tls-san", "token", "token-file", "data-dir", "v", "log", "NoSchedule"}
	for name, want := range map[string]string{
		"tls-sna": "tls-san", "tokn": "token", "tokens": "token", "token-fiel": "token-file", "dataDir": "data-dir", "DATA_DIR": "data-dir",
		"lgo": "log", "lo": "log", "x": "", "loo-k": "", "noschedul": "NoSchedule", "": "", "--token": "token", "something-else": "",
	} {
		if got := nearest(name, candidates); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want || distance(c.b, c.a) != c.want {
			t.Errorf("%s to %s: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
