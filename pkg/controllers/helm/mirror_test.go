package helm

import (
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/registry"
)

// ociChart serves the chart web 1.0.0 below root, as the API of a registry does, to those who say user and pass.
func ociChart(t *testing.T, root string) *httptest.Server {
	t.Helper()
	archive, err := os.ReadFile(pack(t, t.TempDir(), "1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	config := []byte(`{"name":"web","version":"1.0.0","apiVersion":"v2"}`)
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	blob := func(kind string, b []byte) map[string]any {
		return map[string]any{"mediaType": kind, "digest": digest(b), "size": len(b)}
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": blob("application/vnd.cncf.helm.config.v1+json", config),
		"layers": []any{blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", archive)},
	})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"/": nil, "": nil, "/charts/web/tags/list": []byte(`{"name":"charts/web","tags":["1.0.0"]}`),
		"/charts/web/manifests/1.0.0": manifest, "/charts/web/manifests/" + digest(manifest): manifest,
		"/charts/web/blobs/" + digest(config): config, "/charts/web/blobs/" + digest(archive): archive,
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, root)
		text, there := files[name]
		if user, password, _ := r.BasicAuth(); user != "user" || password != "pass" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if !ok || !there {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		if strings.Contains(name, "/manifests/") {
			w.Header().Set("Content-Type", manifestType)
		}
		w.Header().Set("Docker-Content-Digest", digest(text))
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		_, _ = w.Write(text)
	}))
	t.Cleanup(s.Close)
	return s
}

// What registries.yaml says about images holds for charts.
func TestMirrors(t *testing.T) {
	mirror, other := ociChart(t, "/root/prefix"), ociChart(t, "/elsewhere")
	host := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "https://") }
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: mirror.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	say := func(s *httptest.Server, auth string) string {
		return fmt.Sprintf("  %q: {auth: {%s}, tls: {ca_file: %s}}\n", host(s), auth, ca)
	}
	const good = "username: user, password: pass"
	for _, tt := range []struct {
		name, yaml string
		noDefault  bool
		may        access
		err        string
	}{
		{"a mirror with a root and a prefix of its own", "mirrors:\n  hub.test: {endpoint: [" + mirror.URL + "/root], rewrite: {\"^(.*)$\": \"prefix/$1\"}}\nconfigs:\n" + say(mirror, good), false, access{}, ""},
		{"the second of two", "mirrors:\n  hub.test: {endpoint: [" + other.URL + ", " + mirror.URL + "/root/prefix]}\nconfigs:\n" + say(mirror, good) + say(other, good), true, access{}, ""},
		{"a mirror is not shown what is for the registry", "mirrors:\n  hub.test: {endpoint: [" + mirror.URL + "/root/prefix]}\nconfigs:\n" + say(mirror, "username: other, password: pass"), true,
			access{username: "user", password: "pass"}, "401"},
		{"nobody has it", "mirrors:\n  hub.test: {endpoint: [" + other.URL + "]}\nconfigs:\n" + say(other, good), true, access{}, "not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := source{chart: "oci://hub.test/charts/web", version: "1.0.0", access: tt.may, registries: registries{
				settings: func() (registry.Settings, error) {
					return registry.Parse("registries.yaml", []byte(tt.yaml), os.ReadFile)
				},
				noDefault: tt.noDefault,
			}}
			chart, err := s.fetch(t.Context())
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if err == nil && chart.Metadata.Version != "1.0.0" {
				t.Errorf("got %+v", chart.Metadata)
			}
		})
	}
}

// Without a mirror, credentials and CA of registries.yaml serve the registry itself, unless the HelmChart has its own.
func TestCredentialsOfTheHost(t *testing.T) {
	hub := ociChart(t, "/v2")
	host := strings.TrimPrefix(hub.URL, "https://")
	for _, tt := range []struct {
		password string
		may      access
		ok       bool
	}{
		{"pass", access{}, true},
		{"wrong", access{}, false},
		{"wrong", access{username: "user", password: "pass"}, true},
	} {
		s := source{chart: "oci://" + host + "/charts/web", version: "1.0.0", access: tt.may, registries: registries{settings: func() (registry.Settings, error) {
			return registry.Parse("registries.yaml", fmt.Appendf(nil, "configs:\n  %q: {auth: {username: user, password: %s}, tls: {insecure_skip_verify: true}}\n", host, tt.password), os.ReadFile)
		}}}
		if _, err := s.fetch(t.Context()); (err == nil) != tt.ok {
			t.Errorf("password %s: %v", tt.password, err)
		}
	}
}
