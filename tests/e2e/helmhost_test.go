package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/bcrypt"
	"helm.sh/helm/v4/pkg/chart/common"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/registry"
	"helm.sh/helm/v4/pkg/repo/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

// output is what a test chart makes: its values, for the test to look at.
const output = `apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-out"}
data:
  version: {{ .Chart.Version | quote }}
  revision: {{ .Release.Revision | quote }}
  color: {{ .Values.color | quote }}
  size: {{ .Values.size | quote }}
`

// testChart packs a chart with Helm's own packages and returns the archive's path.
func testChart(t *testing.T, dir, name, version string, templates map[string]string) string {
	t.Helper()
	c := &chartv2.Chart{
		Metadata: &chartv2.Metadata{APIVersion: chartv2.APIVersionV2, Name: name, Version: version, AppVersion: "app-" + version},
		Values:   map[string]any{"color": "chart", "size": "chart"},
		Raw:      []*common.File{{Name: chartutil.ValuesfileName, Data: []byte("color: chart\nsize: chart\n")}},
	}
	for file, text := range templates {
		c.Templates = append(c.Templates, &common.File{Name: "templates/" + file, Data: []byte(text)})
	}
	path, err := chartutil.Save(c, dir)
	must(t, err)
	return path
}

// chartContent is a packed chart as spec.chartContent has it.
func chartContent(t *testing.T, name, version string, templates map[string]string) string {
	t.Helper()
	archive, err := os.ReadFile(testChart(t, t.TempDir(), name, version, templates))
	must(t, err)
	return base64.StdEncoding.EncodeToString(archive)
}

// chartRepository serves charts called name, one of each version, on a host, to those with the password, and returns
// the URL.
func chartRepository(t *testing.T, h *lab.Host, port int, password, name string, versions ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, v := range versions {
		testChart(t, dir, name, v, map[string]string{"out.yaml": output})
	}
	index, err := repo.IndexDirectory(dir, "")
	must(t, err)
	must(t, index.WriteFile(filepath.Join(dir, "index.yaml"), 0o600))
	l, err := h.Listen("tcp", fmt.Sprintf("%s:%d", h.Addr(), port))
	must(t, err)
	files := http.FileServer(http.Dir(dir))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, given, _ := r.BasicAuth(); user != "tester" || given != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return "http://" + l.Addr().String()
}

// ociRegistry starts distribution's registry on a host, with TLS and a password, and returns its address.
func ociRegistry(t *testing.T, h *lab.Host, port int, password string, cert, key []byte) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "registry")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	build.Dir = filepath.Join(suite.root, "tests/registry")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the registry: %v\n%s", err, out)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	must(t, err)
	at := fmt.Sprintf("%s:%d", h.Addr(), port)
	for name, text := range map[string]string{
		"cert.pem": string(cert), "key.pem": string(key), "htpasswd": "tester:" + string(hash) + "\n",
		"config.yaml": "version: 0.1\nlog: {level: warn}\nstorage: {inmemory: {}}\nhttp: {addr: '" + at + "', tls: {certificate: /opt/registry/cert.pem, key: /opt/registry/key.pem}}\n" +
			"auth: {htpasswd: {realm: test, path: /opt/registry/htpasswd}}\n",
	} {
		must(t, h.WriteFile("/opt/registry/"+name, []byte(text), 0o600))
	}
	must(t, h.CopyIn(program, "/opt/registry/registry", 0o755))
	p, err := h.Start(lab.Cmd{Args: []string{"/opt/registry/registry", "/opt/registry/config.yaml"}, Env: []string{"OTEL_TRACES_EXPORTER=none"}})
	must(t, err)
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the registry's log:\n%s", p.Log())
		}
	})
	eventually(t, "the registry to listen", func() error {
		c, err := h.DialContext(t.Context(), "tcp", at)
		if err != nil {
			return err
		}
		return c.Close()
	})
	return at
}

// pushChart packs a chart and pushes it with Helm's client.
func pushChart(t *testing.T, web *http.Client, at, password, name, version string) {
	t.Helper()
	archive, err := os.ReadFile(testChart(t, t.TempDir(), name, version, map[string]string{"out.yaml": output}))
	must(t, err)
	client, err := registry.NewClient(registry.ClientOptHTTPClient(web), registry.ClientOptBasicAuth("tester", password), registry.ClientOptCredentialsFile(filepath.Join(t.TempDir(), "none")))
	must(t, err)
	_, err = client.Push(archive, at+"/charts/"+name+":"+version)
	must(t, err)
}
