package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// given is a configuration as a test writes it down.
type given struct {
	args  []string          // NAME=VALUE, or NAME for a switch
	env   map[string]string // variables
	files map[string]string // absolute path → content
}

func (g given) input() Input {
	in := Input{Hostname: "box", WorkDir: "/home/me", FS: fstest.MapFS{}}
	for _, a := range g.args {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			value = "true"
		}
		in.CommandLine = append(in.CommandLine, Occurrence{Name: name, Value: value})
	}
	in.LookupEnv = func(name string) (string, bool) { v, ok := g.env[name]; return v, ok }
	tree := fstest.MapFS{}
	for path, content := range g.files {
		tree[strings.TrimPrefix(path, "/")] = &fstest.MapFile{Data: []byte(content)}
	}
	in.FS = tree
	return in
}

func mustLoad(t *testing.T, g given) Server {
	t.Helper()
	s, err := LoadServer(g.input())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	got := mustLoad(t, given{})
	want := Server{
		Common: Common{
			ConfigFile: "/etc/knarr/config.yaml",
			DataDir:    "/var/lib/knarr",
			Node:       Node{Name: "box"},
			Runtime: Runtime{DefaultRuntime: "runc", Snapshotter: "overlayfs",
				PrivateRegistry: "/etc/knarr/registries.yaml", DefaultRegistryEndpoint: true},
		},
		Listener: Listener{Port: 6443},
		Network: Network{
			ClusterCIDRs: ListOf(netip.MustParsePrefix("10.42.0.0/16")),
			ServiceCIDRs: ListOf(netip.MustParsePrefix("10.43.0.0/16")),
			NodePorts:    PortRange{30000, 32767},
			Domain:       "cluster.local", FlannelBackend: FlannelVXLAN,
		},
		Kubeconfig: Kubeconfig{Path: "/etc/knarr/knarr.yaml", Mode: 0o600},
		Backup: Backup{
			Schedule: "0 */12 * * *", Scheduled: true, BeforeUpgrade: true, Retention: 5, Name: "knarr", Compression: "default",
			S3: BackupS3{Endpoint: "s3.amazonaws.com", Lookup: "auto", Region: "us-east-1", Retention: 5, Timeout: 5 * time.Minute},
		},
		Components: Components{Scheduler: true, CloudController: true, KubeProxy: true, NetworkPolicy: true, HelmController: true, APIServer: true, ControllerManager: true, Etcd: true, Agent: true, RestAfter: 5 * time.Minute},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPrecedence(t *testing.T) {
	file := map[string]string{"/etc/knarr/config.yaml": "node-name: from-file\n"}
	dropIn := map[string]string{"/etc/knarr/config.yaml": "node-name: from-file\n", "/etc/knarr/config.yaml.d/a.yaml": "node-name: from-drop-in\n"}
	env := map[string]string{"KNARR_NODE_NAME": "from-env"}
	for _, c := range []struct {
		name, want string
		given      given
	}{
		{"default", "box", given{}},
		{"file", "from-file", given{files: file}},
		{"drop-in above file", "from-drop-in", given{files: dropIn}},
		{"environment above files", "from-env", given{env: env, files: dropIn}},
		{"flag above all", "from-flag", given{args: []string{"node-name=from-flag"}, env: env, files: dropIn}},
		{"last flag wins", "b", given{args: []string{"node-name=a", "node-name=b"}}},
		{"empty variable is not set", "from-file", given{env: map[string]string{"KNARR_NODE_NAME": ""}, files: file}},
		{"empty flag is the default, whatever the file says", "box", given{args: []string{"node-name="}, files: file}},
		{"empty key is the default", "box", given{files: map[string]string{"/etc/knarr/config.yaml": `node-name: ""`}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := mustLoad(t, c.given).Node.Name; got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestConfigFileIsChosen(t *testing.T) {
	files := map[string]string{
		"/etc/knarr/config.yaml":          "tls-san: default",
		"/etc/knarr/config.yaml.d/a.yaml": "tls-san+: default-drop-in",
		"/env.yaml":                       "tls-san: env",
		"/home/me/flag.yaml":              "tls-san: flag",
		"/home/me/flag.yaml.d/a.yaml":     "tls-san+: flag-drop-in",
		"/home/me/flag.yaml.d/b.yml":      "tls-san: not a drop-in",
		"/home/me/flag.yaml.d/c/c.yaml":   "tls-san: not a drop-in",
	}
	env := map[string]string{"KNARR_CONFIG_FILE": "/env.yaml"}
	for _, c := range []struct {
		name, path, sans, read string
		given                  given
	}{
		{"default", "/etc/knarr/config.yaml", "[default default-drop-in]", "[/etc/knarr/config.yaml /etc/knarr/config.yaml.d/a.yaml]", given{files: files}},
		{"variable, no drop-ins", "/env.yaml", "[env]", "[/env.yaml]", given{env: env, files: files}},
		{"flag above variable, relative", "/home/me/flag.yaml", "[flag flag-drop-in]", "[/home/me/flag.yaml /home/me/flag.yaml.d/a.yaml]",
			given{args: []string{"c=flag.yaml"}, env: env, files: files}},
		{"empty flag is the default", "/etc/knarr/config.yaml", "[default default-drop-in]", "[/etc/knarr/config.yaml /etc/knarr/config.yaml.d/a.yaml]",
			given{args: []string{"config="}, files: files}},
		{"drop-ins without the default file", "/etc/knarr/config.yaml", "[alone]", "[/etc/knarr/config.yaml.d/a.yaml]",
			given{files: map[string]string{"/etc/knarr/config.yaml.d/a.yaml": "tls-san: alone"}}},
		{"nothing there", "/etc/knarr/config.yaml", "[]", "[]", given{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustLoad(t, c.given)
			if s.ConfigFile != c.path || s.Listener.TLSSANs.String() != c.sans || s.ConfigFiles.String() != c.read {
				t.Errorf("file %s, tls-san %s, read %s", s.ConfigFile, s.Listener.TLSSANs, s.ConfigFiles)
			}
		})
	}
}

func TestToken(t *testing.T) {
	files := map[string]string{"/secret": "  from-file\n"}
	for _, c := range []struct {
		name, want string
		given      given
	}{
		{"none", "", given{}},
		{"flag", "abc", given{args: []string{"t=abc"}}},
		{"variable", "abc", given{env: map[string]string{"KNARR_TOKEN": "abc"}}},
		{"file", "from-file", given{args: []string{"token-file=/secret"}, files: files}},
		{"file in the environment", "from-file", given{env: map[string]string{"KNARR_TOKEN_FILE": "/secret"}, files: files}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustLoad(t, c.given)
			if got := s.Token.Reveal(); got != c.want || s.Token.IsSet() != (c.want != "") {
				t.Errorf("got %q", got)
			}
			in := joining(c.given.input())
			a, err := LoadAgent(in)
			if err != nil || a.Token.Reveal() != c.want {
				t.Errorf("agent: %v", err)
			}
		})
	}
}

func TestImageCredentialProvider(t *testing.T) {
	const bin, file = "/var/lib/knarr/credentialprovider/bin", "/var/lib/knarr/credentialprovider/config.yaml"
	for _, c := range []struct {
		name, bin, file string
		given           given
	}{
		{"none", "", "", given{}},
		{"half", "", "", given{files: map[string]string{file: "x"}}},
		{"default", bin, file, given{files: map[string]string{file: "x", bin + "/x": ""}}},
		{"default of another data-dir", "/d/credentialprovider/bin", "/d/credentialprovider/config.yaml",
			given{args: []string{"data-dir=/d"}, files: map[string]string{"/d/credentialprovider/config.yaml": "x", "/d/credentialprovider/bin/x": ""}}},
		{"given", "/b", "/f", given{args: []string{"image-credential-provider-bin-dir=/b", "image-credential-provider-config=/f"},
			files: map[string]string{"/f": "x", "/b/x": "", file: "x", bin + "/x": ""}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if n := mustLoad(t, c.given).Node; n.CredentialBinDir != c.bin || n.CredentialConfig != c.file {
				t.Errorf("got %q, %q", n.CredentialBinDir, n.CredentialConfig)
			}
		})
	}
}
