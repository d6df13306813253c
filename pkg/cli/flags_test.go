package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/tests/golden"
)

func occurrences(pairs ...string) []config.Occurrence {
	var list []config.Occurrence
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, config.Occurrence{Name: pairs[i], Value: pairs[i+1]})
	}
	return list
}

func TestParseConfigLine(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want configLine
	}{
		{"nothing", nil, configLine{}},
		{"value after =", []string{"--data-dir=/d"}, configLine{occurrences: occurrences("data-dir", "/d")}},
		{"value after a space", []string{"--data-dir", "/d"}, configLine{occurrences: occurrences("data-dir", "/d")}},
		{"one dash", []string{"-data-dir", "/d"}, configLine{occurrences: occurrences("data-dir", "/d")}},
		{"short alias", []string{"-d", "/d", "-v=4"}, configLine{occurrences: occurrences("d", "/d", "v", "4")}},
		{"value with =", []string{"--kubelet-arg=a=b=c"}, configLine{occurrences: occurrences("kubelet-arg", "a=b=c")}},
		{"value with dashes", []string{"--kubelet-arg", "--v=4", "--debug"}, configLine{occurrences: occurrences("kubelet-arg", "--v=4", "debug", "true")}},
		{"empty value", []string{"--token="}, configLine{occurrences: occurrences("token", "")}},
		{"switch", []string{"--debug", "--selinux=false"}, configLine{occurrences: occurrences("debug", "true", "selinux", "false")}},
		{"switch takes no next word", []string{"--debug", "false"}, configLine{occurrences: occurrences("debug", "true"), words: []string{"false"}}},
		{"order is kept", []string{"--tls-san=a", "--debug", "--tls-san=b"}, configLine{occurrences: occurrences("tls-san", "a", "debug", "true", "tls-san", "b")}},
		{"missing value", []string{"--debug", "--token"}, configLine{occurrences: []config.Occurrence{{Name: "debug", Value: "true"}, {Name: "token", Missing: true}}}},
		{"unknown goes on", []string{"--nope", "value", "--debug", "-x=1"}, configLine{occurrences: occurrences("nope", "", "debug", "true", "x", "1")}},
		{"unknown before a flag", []string{"--nope", "--debug"}, configLine{occurrences: occurrences("nope", "", "debug", "true")}},
		{"words", []string{"a", "--debug", "-"}, configLine{occurrences: occurrences("debug", "true"), words: []string{"a", "-"}}},
		{"end of flags", []string{"--debug", "--", "--token", "x"}, configLine{occurrences: occurrences("debug", "true"), words: []string{"--token", "x"}}},
		{"not a flag", []string{"---debug", "--=x"}, configLine{words: []string{"---debug", "--=x"}}},
		{"help", []string{"--debug", "-h"}, configLine{occurrences: occurrences("debug", "true"), help: true}},
		{"help as a value", []string{"--kubelet-arg", "--help"}, configLine{occurrences: occurrences("kubelet-arg", "--help")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := parseConfigLine(config.RoleServer, c.args); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// runConfigured runs `knarr server ARGS` with an action that loads the
// configuration, and gives its output and what was loaded.
func runConfigured(t *testing.T, env Env, args ...string) (string, config.Server, error) {
	t.Helper()
	var out bytes.Buffer
	var loaded config.Server
	app := cli.NewApp()
	app.Name, app.Writer, app.ErrWriter = "knarr", &out, &out
	app.ExitErrHandler = func(*cli.Context, error) {}
	app.Commands = []*cli.Command{configured(env, config.RoleServer, &cli.Command{Name: "server", Usage: "Run a server"},
		func(_ context.Context, in config.Input) error {
			in.Hostname = "box"
			var err error
			loaded, err = config.LoadServer(in)
			return err
		})}
	err := app.RunContext(t.Context(), append([]string{"knarr", "server"}, args...))
	return out.String(), loaded, err
}

func TestConfiguredCommand(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/knarr"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/knarr/config.yaml"), []byte("cluster-domain: file.local\ntls-san: [a]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"KNARR_NODE_NAME": "env-node"}
	env := Env{Root: root, Getenv: func(name string) string { return vars[name] }}

	out, s, err := runConfigured(t, env, "--tls-san", "b", "--debug")
	if err != nil || out != "" {
		t.Fatalf("%v\n%s", err, out)
	}
	if s.Network.Domain != "file.local" || s.Node.Name != "env-node" || !s.Logging.Debug || s.Listener.TLSSANs.String() != "[b]" {
		t.Errorf("%+v", s)
	}

	out, _, err = runConfigured(t, env, "--disable-schedulr", "now", "--data-dr=/d", "extra", "-v", "many", "--token")
	want := "bad configuration, 5 problems:\n" +
		"  - --disable-schedulr: unknown flag, did you mean --disable-scheduler?\n" +
		"  - --data-dr: unknown flag, did you mean --data-dir?\n" +
		"  - --token: has no value; want a text without spaces\n" +
		"  - command line \"extra\": unexpected argument; `knarr server` takes flags only\n" +
		"  - -v \"many\": not such a number; want a whole number from 0"
	if err == nil || err.Error() != want || out != "" {
		t.Errorf("got %v\nwant %s\noutput %q", err, want, out)
	}
	var bad *config.Error
	if !errors.As(err, &bad) || ExitCode(err) != exitUsage {
		t.Errorf("%T has exit code %d", err, ExitCode(err))
	}
}

// TestAgentHelp has what an agent decides, and not what the cluster does.
func TestAgentHelp(t *testing.T) {
	c := newCommand(t)
	if code := c.run(t, func(env Env) *cli.Command { return agentCommand(env, sdnotify.Notifier{}) }, "--help"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &c.stderr)
	}
	out := c.stdout.String()
	for flag, want := range map[string]bool{"--server": true, "--token-file": true, "--lb-server-port": true, "--node-label": true, "--cluster-cidr": false, "--agent-token": false, "--datastore-endpoint": false} {
		if strings.Contains(out, flag+" ") != want {
			t.Errorf("help has %s: %t", flag, !want)
		}
	}
	if code := c.run(t, func(env Env) *cli.Command { return agentCommand(env, sdnotify.Notifier{}) }); code != exitUsage || !strings.Contains(c.stderr.String(), "KNARR_URL") {
		t.Errorf("without a server: %d, %s", code, &c.stderr)
	}
}

func TestHelp(t *testing.T) {
	out, _, err := runConfigured(t, Env{Root: t.TempDir()}, "--data-dir=/x", "--nope", "--help")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "server-help.txt"), out)
}
