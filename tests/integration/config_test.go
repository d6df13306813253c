package integration

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// unchanged fails the test when the host has anything that knarr writes.
func unchanged(t *testing.T, h *lab.Host) {
	t.Helper()
	out, err := h.Exec(t.Context(), "sh", "-c", "find /var/lib/knarr /run/knarr /etc/knarr/knarr.yaml /var/lib/kubelet /var/lib/cni 2>/dev/null; nft list tables; ls /sys/class/net | grep -vx -e lo -e eth0; true")
	must(t, err)
	if out != "" {
		t.Errorf("something was changed:\n%s", out)
	}
}

func TestWrongConfiguration(t *testing.T) {
	s := own(t, "config", lab.Options{})
	for _, c := range []struct {
		name  string
		args  []string
		env   []string
		files map[string]string
		want  []string // each is somewhere in what knarr says
	}{
		{name: "a wrong value names its flag", args: []string{"--https-listen-port=many"}, want: []string{"--https-listen-port", `"many"`, "1 to 65535"}},
		{name: "a wrong variable is named", env: []string{"KNARR_KUBECONFIG_MODE=rw"}, want: []string{"KNARR_KUBECONFIG_MODE", `"rw"`}},
		{name: "a wrong key names file and line", files: map[string]string{"config.yaml": "debug: true\nflannel-backend: pigeon\n"},
			want: []string{"/etc/knarr/config.yaml:2", "flannel-backend", `"pigeon"`, "vxlan"}},
		{name: "a drop-in names its own file", files: map[string]string{"config.yaml": "debug: true\n", "config.yaml.d/10-mine.yaml": "\n\nnode-ip: nowhere\n"},
			want: []string{"/etc/knarr/config.yaml.d/10-mine.yaml:3", "node-ip"}},
		{name: "an unknown flag", args: []string{"--flanel-backend=none"}, want: []string{"--flanel-backend", "--flannel-backend"}},
		{name: "an unknown key", files: map[string]string{"config.yaml": "flanel-backend: none\n"}, want: []string{"/etc/knarr/config.yaml:1", "flanel-backend", "flannel-backend"}},
		{name: "broken YAML", files: map[string]string{"config.yaml": "debug: [true\n"}, want: []string{"/etc/knarr/config.yaml"}},
		{name: "a file that is not there", args: []string{"--config=/etc/knarr/other.yaml"}, want: []string{"--config", "/etc/knarr/other.yaml"}},
		{name: "all problems at once", args: []string{"--https-listen-port=0", "--node-ip=x"}, env: []string{"KNARR_DEBUG=perhaps"}, files: map[string]string{"config.yaml": "cluster-cidr: 10/8\n"},
			want: []string{"4 problems", "--https-listen-port", "--node-ip", "KNARR_DEBUG", "/etc/knarr/config.yaml:1"}},
		{name: "ranges that overlap", args: []string{"--cluster-cidr=10.42.0.0/16", "--service-cidr=10.42.128.0/17"}, want: []string{"cluster-cidr", "service-cidr", "overlap"}},
		{name: "a DNS address outside of the services", args: []string{"--cluster-dns=10.99.0.10"}, want: []string{"--cluster-dns", "10.99.0.10"}},
		{name: "an argument that kube-apiserver does not know", args: []string{"--kube-apiserver-arg=no-such-flag=1"}, want: []string{"kube-apiserver-arg", "no-such-flag"}},
		{name: "an argument that the kubelet does not know", files: map[string]string{"config.yaml": "kubelet-arg:\n- no-such-flag=1\n"}, want: []string{"kubelet-arg", "no-such-flag"}},
		{name: "a wrong value for the scheduler", args: []string{"--kube-scheduler-arg=kube-api-qps=loud"}, want: []string{"kube-scheduler-arg", "loud"}},
		{name: "an argument too many", args: []string{"now"}, want: []string{`"now"`}},
		{name: "two secrets", args: []string{"--token=abc", "--token-file=/etc/hostname"}, want: []string{"token", "token-file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, text := range c.files {
				must(t, s.Host.WriteFile("/etc/knarr/"+name, []byte(text), 0o600))
			}
			t.Cleanup(func() {
				err := s.Host.Do(func() error {
					return errors.Join(os.RemoveAll("/etc/knarr"), os.RemoveAll("/run/knarr"), os.RemoveAll(cluster.DataDir))
				})
				if err != nil {
					t.Error(err)
				}
			})
			said, code := outcome(t, s.Host, lab.Cmd{Args: append([]string{s.Program, "server"}, c.args...), Env: c.env})
			if code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			for _, want := range c.want {
				if !strings.Contains(said, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if lines := strings.Count(said, "\n"); lines > 2+strings.Count(said, "\n  - ") {
				t.Errorf("it is not one message")
			}
			if t.Failed() {
				t.Logf("it said:\n%s", said)
			}
			unchanged(t, s.Host)
		})
	}
}

// TestBrokenHost starts knarr where it cannot run. It must say why in one
// message and end with 1.
func TestBrokenHost(t *testing.T) {
	for _, c := range []struct {
		name, host string
		break_     func(t *testing.T, s *cluster.Server)
		args       []string
		want       []string
	}{
		{name: "the API's port is taken", host: "port", want: []string{"6443", "https-listen-port"}, break_: func(t *testing.T, s *cluster.Server) {
			l, err := s.Host.Listen("tcp", "0.0.0.0:6443")
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}},
		{name: "the kubelet's port is taken", host: "kubelet-port", want: []string{"10250"}, break_: func(t *testing.T, s *cluster.Server) {
			l, err := s.Host.Listen("tcp", "0.0.0.0:10250")
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}},
		{name: "the data is of a newer version", host: "newer", want: []string{"/var/lib/knarr", "v1.99.0+knarr1", "v1.37.1+knarr1"}, break_: func(t *testing.T, s *cluster.Server) {
			must(t, s.Host.WriteFile("/var/lib/knarr/version", []byte("v1.99.0+knarr1\n"), 0o600))
		}},
		{name: "the disk cannot be written", host: "readonly", want: []string{"/var/lib/knarr", "read-only"}, break_: func(t *testing.T, s *cluster.Server) {
			script(t, s.Host, "mkdir -p /var/lib/knarr && mount -t tmpfs -o ro none /var/lib/knarr")
		}},
		{name: "the disk is full", host: "full", want: []string{"/var/lib/knarr", "no space left"}, break_: func(t *testing.T, s *cluster.Server) {
			script(t, s.Host, "mkdir -p /var/lib/knarr && mount -t tmpfs -o size=256k none /var/lib/knarr && { cat /dev/zero > /var/lib/knarr/filler 2>/dev/null || true; }")
		}},
		{name: "the data directory is a file", host: "file", want: []string{"/var/lib/knarr"}, break_: func(t *testing.T, s *cluster.Server) {
			must(t, s.Host.WriteFile("/var/lib/knarr", nil, 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := own(t, c.host, lab.Options{})
			c.break_(t, s)
			said, code := outcome(t, s.Host, lab.Cmd{Args: append([]string{s.Program, "server"}, c.args...)})
			if code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			lines := strings.Split(strings.TrimSpace(said), "\n")
			last := lines[len(lines)-1]
			for _, want := range c.want {
				if !strings.Contains(last, want) {
					t.Errorf("its last line does not say %q", want)
				}
			}
			if t.Failed() {
				t.Logf("it said:\n%s", said)
			}
		})
	}
}

func TestSecondServerOnTheSameData(t *testing.T) {
	s := alone(t, "second")
	must(t, s.Start())
	if _, err := s.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	said, code := outcome(t, s.Host, lab.Cmd{Args: []string{s.Program, "server", "--disable-agent", "--https-listen-port=7443"}})
	if code != 1 || !strings.Contains(said, "/var/lib/knarr") || !strings.Contains(said, "in use") {
		t.Errorf("a second server on the same data ends with %d and says\n%s", code, said)
	}
	if !s.Running() {
		t.Error("the first server was disturbed")
	}
}

func TestWithoutRoot(t *testing.T) {
	s := own(t, "user", lab.Options{})
	said, code := outcome(t, s.Host, lab.Cmd{Args: []string{"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", s.Program, "server"}})
	if code == 0 || !strings.Contains(said, "root") {
		t.Errorf("as a user it ends with %d and says\n%s", code, said)
	}
	unchanged(t, s.Host)
}

func script(t *testing.T, h *lab.Host, text string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), "sh", "-c", text)
	must(t, err)
	return strings.TrimSpace(out)
}
