package registry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/opencontainers/go-digest"
)

// manifest is what every registry of these tests serves.
const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// fakeRegistry serves the manifest at path to those who prove themselves.
func fakeRegistry(t *testing.T, path string, authorized func(http.ResponseWriter, *http.Request) bool) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if !authorized(w, r) {
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		w.Header().Set("Docker-Content-Digest", digest.FromString(manifest).String())
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(manifest)))
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if !basic(w, r) {
			return
		}
		if err := json.NewEncoder(w).Encode(map[string]string{"token": "good"}); err != nil {
			t.Error(err)
		}
	})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

func anybody(http.ResponseWriter, *http.Request) bool { return true }

func basic(w http.ResponseWriter, r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	if user == "user" && password == "pass:word" {
		return true
	}
	w.Header().Set("WWW-Authenticate", "Basic realm=\"x\"")
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

func bearer(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Authorization") == "Bearer good" {
		return true
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token",service="x"`, r.Host))
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

// TestContainerdUnderstands resolves an image with containerd's own code and the files made here.
func TestContainerdUnderstands(t *testing.T) {
	tests := []struct {
		name       string
		path       string // below which the registry serves a/b
		authorized func(http.ResponseWriter, *http.Request) bool
		yaml       string // SERVER and CA are replaced
		image      string
		noDefault  bool
		fails      bool
	}{
		{name: "a CA", path: "/v2/", authorized: anybody, yaml: "configs: {SERVER: {tls: {ca_file: CA}}}", image: "SERVER/a/b:1"},
		{name: "no CA", path: "/v2/", authorized: anybody, yaml: "", image: "SERVER/a/b:1", fails: true},
		{name: "unverified", path: "/v2/", authorized: anybody, yaml: "configs: {SERVER: {tls: {insecure_skip_verify: true}}}", image: "SERVER/a/b:1"},
		{name: "basic authorization", path: "/v2/", authorized: basic, image: "SERVER/a/b:1",
			yaml: "configs: {SERVER: {tls: {ca_file: CA}, auth: {username: user, password: \"pass:word\"}}}"},
		{name: "wrong password", path: "/v2/", authorized: basic, image: "SERVER/a/b:1", fails: true,
			yaml: "configs: {SERVER: {tls: {ca_file: CA}, auth: {username: user, password: other}}}"},
		{name: "token", path: "/v2/", authorized: bearer, image: "SERVER/a/b:1",
			yaml: "configs: {SERVER: {tls: {ca_file: CA}, auth: {auth: dXNlcjpwYXNzOndvcmQ=}}}"},
		{name: "token refused", path: "/v2/", authorized: bearer, image: "SERVER/a/b:1", fails: true,
			yaml: "configs: {SERVER: {tls: {ca_file: CA}}}"},
		{name: "mirror", path: "/v2/a/b/", authorized: bearer, image: "gone.invalid/a/b:1",
			yaml: "{mirrors: {gone.invalid: {endpoint: [\"https://SERVER\"]}}, configs: {SERVER: {tls: {ca_file: CA}, auth: {username: user, password: \"pass:word\"}}}}"},
		{name: "mirror without the default", path: "/v2/a/b/", authorized: basic, image: "gone.invalid/a/b:1", noDefault: true,
			yaml: "{mirrors: {gone.invalid: {endpoint: [\"http://127.0.0.1:1\", \"https://SERVER\"]}}, configs: {SERVER: {tls: {ca_file: CA}, auth: {username: user, password: \"pass:word\"}}}}"},
		{name: "second mirror and a prefix", path: "/v2/p/q/a/b/", authorized: anybody, image: "gone.invalid/a/b:1",
			yaml: "{mirrors: {gone.invalid: {endpoint: [\"http://127.0.0.1:1\", \"https://SERVER\"], rewrite: {\"^(.*)$\": p/q/$1}}}, configs: {SERVER: {tls: {ca_file: CA}}}}"},
		{name: "path", path: "/root/a/b/", authorized: anybody, image: "gone.invalid/a/b:1",
			yaml: "{mirrors: {gone.invalid: {endpoint: [\"https://SERVER/root\"]}}, configs: {SERVER: {tls: {ca_file: CA}}}}"},
		{name: "wildcard", path: "/v2/a/b/", authorized: anybody, image: "gone.invalid/a/b:1",
			yaml: "{mirrors: {\"*\": {endpoint: [\"https://SERVER\"]}}, configs: {\"*\": {tls: {ca_file: CA}}}}"},
		{name: "no wildcard for one that is named", path: "/v2/a/b/", authorized: anybody, image: "127.0.0.1:1/a/b:1", fails: true,
			yaml: "{mirrors: {\"*\": {endpoint: [\"https://SERVER\"]}, \"127.0.0.1:1\": {}}, configs: {\"*\": {tls: {ca_file: CA}}}}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := fakeRegistry(t, tt.path, tt.authorized)
			dir := t.TempDir()
			ca := filepath.Join(dir, "ca.pem")
			block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			if err := os.WriteFile(ca, block, 0o600); err != nil {
				t.Fatal(err)
			}
			fill := strings.NewReplacer("SERVER", strings.TrimPrefix(server.URL, "https://"), "CA", ca)
			s, err := Parse("r.yaml", []byte(fill.Replace(tt.yaml)), os.ReadFile)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Write(filepath.Join(dir, "certs.d"), s.Files(tt.noDefault)); err != nil {
				t.Fatal(err)
			}
			// As core/transfer/registry/registry.go:130 does, without pull secrets.
			hosts := config.ConfigureHosts(t.Context(), config.HostOptions{
				HostDir:       config.HostDirFromRoot(filepath.Join(dir, "certs.d")),
				Credentials:   func(string) (string, string, error) { return "", "", nil },
				DefaultScheme: "https",
			})
			_, desc, err := docker.NewResolver(docker.ResolverOptions{Hosts: hosts}).Resolve(t.Context(), fill.Replace(tt.image))
			if (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			if err == nil && desc.Digest != digest.FromString(manifest) {
				t.Errorf("resolved to %s", desc.Digest)
			}
		})
	}
}

// certificate makes a certificate, and a file with it and its key.
func certificate(t *testing.T, dir string) (cert, both string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, both = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "both.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, data := range map[string][]byte{cert: text, both: append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, both
}
