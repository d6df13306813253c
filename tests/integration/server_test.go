package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

func start(t *testing.T, s *cluster.Server) *cluster.Client {
	t.Helper()
	must(t, s.Start())
	c, err := s.WaitAPI(t.Context())
	must(t, err)
	return c
}

func TestServerWithoutNode(t *testing.T) {
	s := alone(t, "headless")
	c := start(t, s)
	version, err := c.ServerVersion()
	if err != nil || version.GitVersion != "v1.37.1+knarr1" || version.Major != "1" || version.Minor != "37" || version.GitTreeState == "" {
		t.Errorf("the server says that it is %+v, %v", version, err)
	}
	maps := c.CoreV1().ConfigMaps("default")
	_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{})
	must(t, err)
	must(t, s.Process().Kill())
	c = start(t, s)
	if _, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("what was acknowledged is lost after kill -9: %v", err)
	}
	nodes, err := c.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 0 {
		t.Errorf("with --disable-agent there are %d nodes, %v", len(nodes.Items), err)
	}
	if code, err := s.Stop(t.Context()); err != nil || code != 0 {
		t.Errorf("stop: %d, %v", code, err)
	}
}

// TestPermissions looks at what the server writes: secrets for root only.
func TestPermissions(t *testing.T) {
	s := alone(t, "secrets")
	start(t, s)
	for path, want := range map[string]string{
		cluster.Kubeconfig:                        "600",
		"/var/lib/knarr/server/token":             "600",
		"/var/lib/knarr/server/db":                "700",
		"/var/lib/knarr/server/tls/server-ca.key": "600",
		"/run/knarr/control.sock":                 "600",
	} {
		if got := script(t, s.Host, "stat -Lc %a "+path); got != want {
			t.Errorf("%s has the permissions %s, want %s", path, got, want)
		}
	}
	open := script(t, s.Host, "grep -rlsE 'PRIVATE KEY|token:|client-key-data' /var/lib/knarr/server /etc/knarr /run/knarr | while read -r f; do stat -c '%a %n' \"$f\"; done | grep -v '^600 ' || true")
	if open != "" {
		t.Errorf("secrets that others may read:\n%s", open)
	}
	token := script(t, s.Host, "cat /var/lib/knarr/server/token")
	if log := s.Log(); strings.Contains(log, token) || strings.Contains(log, "PRIVATE KEY") {
		t.Error("the log holds a secret")
	}
	if others := script(t, s.Host, "cat /proc/$(cat /var/lib/knarr/lock)/cmdline"); strings.Contains(others, token) {
		t.Error("the token stands on the command line")
	}
}

func TestSettings(t *testing.T) {
	s := alone(t, "settings")
	s.Config = `
disable-agent: true
https-listen-port: 7443
tls-san: [knarr.example, 192.0.2.7]
write-kubeconfig: /etc/knarr/other.yaml
write-kubeconfig-mode: "640"
data-dir: /opt/data
service-cidr: 10.96.0.0/16
kube-apiserver-arg: [audit-log-path=/var/log/audit.log, "audit-policy-file=/etc/knarr/audit.yaml"]
`
	must(t, s.Host.WriteFile("/etc/knarr/audit.yaml", []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"), 0o600))
	must(t, s.Host.WriteFile("/etc/knarr/config.yaml.d/1.yaml", []byte("tls-san+: [added.example]\n"), 0o600))
	s.Args = nil
	must(t, s.Start())
	var c *cluster.Client
	eventually(t, s, "the API", func() error {
		b, err := s.Host.ReadFile("/etc/knarr/other.yaml")
		if err != nil {
			return err
		}
		if c, err = cluster.NewClient(s.Host, b); err != nil {
			return err
		}
		return c.RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error()
	})
	if got := script(t, s.Host, "stat -c %a /etc/knarr/other.yaml; ls -d /var/lib/knarr /etc/knarr/knarr.yaml 2>/dev/null || true"); got != "640" {
		t.Errorf("the kubeconfig's permissions and what should not be there: %s", got)
	}
	eventually(t, s, "the API's own Service", func() error {
		svc, err := c.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if err == nil && svc.Spec.ClusterIP != "10.96.0.1" {
			err = fmt.Errorf("its address is %s", svc.Spec.ClusterIP)
		}
		return err
	})
	eventually(t, s, "the audit log", func() error {
		_, err := s.Host.Exec(t.Context(), "grep", "-q", "services/kubernetes", "/var/log/audit.log")
		return err
	})
	conn, err := s.Host.DialContext(t.Context(), "tcp", "127.0.0.1:7443")
	must(t, err)
	defer conn.Close()
	tc := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // the names are what is looked at
	must(t, tc.HandshakeContext(t.Context()))
	for _, name := range []string{"knarr.example", "added.example", "192.0.2.7", "kubernetes.default.svc.cluster.local", "10.96.0.1", "localhost", s.Host.Addr().String()} {
		if err := tc.ConnectionState().PeerCertificates[0].VerifyHostname(name); err != nil {
			t.Errorf("the certificate is not for %s: %v", name, err)
		}
	}
}

func eventually(t *testing.T, s *cluster.Server, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cluster.StartLimit)
	defer cancel()
	if err := lab.Poll(ctx, cluster.PollEvery, try); err != nil {
		t.Fatalf("wait for %s: %v\n%s", what, err, s.LogTail(40))
	}
}

// TestCertificatesFollowTheHost starts again with another address.
func TestCertificatesFollowTheHost(t *testing.T) {
	s := alone(t, "before")
	start(t, s)
	if _, err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	script(t, s.Host, "ip addr add 198.18.99.99/16 dev eth0")
	s.Args = append(s.Args, "--node-ip=198.18.99.99")
	start(t, s)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: s.Host.DialContext, TLSClientConfig: trust(t, s)}}
	r, err := client.Get("https://198.18.99.99:6443/livez")
	if err != nil {
		t.Fatalf("after the address changed: %v", err)
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		t.Error(err)
	}
}

func trust(t *testing.T, s *cluster.Server) *tls.Config {
	t.Helper()
	c, err := s.Client()
	must(t, err)
	pool := certPool(c.Config.CAData)
	if pool == nil {
		t.Fatal("the kubeconfig holds no CA")
	}
	return &tls.Config{RootCAs: pool}
}

func TestCheckConfig(t *testing.T) {
	s := own(t, "check", lab.Options{})
	said, code := outcome(t, s.Host, lab.Cmd{Args: []string{s.Program, "check-config"}})
	if code != 0 || !strings.Contains(said, "nftables") || strings.Contains(said, "  fail  ") {
		t.Errorf("on a good host check-config ends with %d:\n%s", code, said)
	}
	unchanged(t, s.Host)
	l, err := s.Host.Listen("tcp", "0.0.0.0:6443")
	must(t, err)
	said, code = outcome(t, s.Host, lab.Cmd{Args: []string{s.Program, "check-config"}})
	must(t, l.Close())
	if code != 1 || !strings.Contains(said, "6443") {
		t.Errorf("with the API's port taken check-config ends with %d:\n%s", code, said)
	}
	must(t, s.Host.WriteFile(cluster.ConfigFile, []byte("debug: perhaps\n"), 0o600))
	said, code = outcome(t, s.Host, lab.Cmd{Args: []string{s.Program, "check-config"}})
	if code != 1 || !strings.Contains(said, "/etc/knarr/config.yaml:1") {
		t.Errorf("with a wrong configuration check-config ends with %d:\n%s", code, said)
	}
}

// TestARM starts the executables for other machines under emulation, as API
// servers on SQLite.
func TestARM(t *testing.T) {
	for _, c := range []struct{ arch, file, emulator string }{
		{"arm64", "knarr-arm64", "qemu-aarch64-static"},
		{"arm", "knarr-armhf", "qemu-arm-static"},
	} {
		t.Run(c.arch, func(t *testing.T) {
			binary := filepath.Join(suite.root, "dist", c.file)
			if _, err := os.Stat(binary); err != nil {
				t.Fatalf("%v: run scripts/build --arch %s", err, c.arch)
			}
			s := own(t, c.arch, lab.Options{})
			must(t, s.Host.CopyIn(binary, "/opt/"+c.file, 0o755))
			must(t, s.Host.WriteFile(s.Program, []byte(fmt.Sprintf("#!/bin/sh\nexec %s /opt/%s \"$@\"\n", c.emulator, c.file)), 0o755))
			s.Args = []string{"--disable-agent"}
			must(t, s.Start())
			client := emulated(t, s)
			_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{})
			must(t, err)
			must(t, s.Process().Kill())
			must(t, s.Start())
			client = emulated(t, s)
			if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
				t.Errorf("what was acknowledged is lost after kill -9: %v", err)
			}
		})
	}
}

// emulated waits longer than WaitAPI: an emulated server is some twenty times
// slower.
func emulated(t *testing.T, s *cluster.Server) *cluster.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	var c *cluster.Client
	err := lab.Poll(ctx, time.Second, func() error {
		if !s.Running() {
			cancel()
		}
		var err error
		if c, err = s.Client(); err != nil {
			return err
		}
		return c.RESTClient().Get().AbsPath("/readyz").Timeout(30 * time.Second).Do(ctx).Error()
	})
	if err != nil {
		t.Fatalf("wait for the emulated API: %v\n%s", err, s.LogTail(60))
	}
	return c
}
