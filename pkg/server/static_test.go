package server

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestStatic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "static")
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("the API")) })
	h := static(dir, slog.New(slog.DiscardHandler), api)
	ask := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := ask("GET", "/static/a.tgz"); code != http.StatusNotFound {
		t.Errorf("without the directory: %d", code)
	}
	if err := os.MkdirAll(filepath.Join(dir, "charts"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"static/charts/a.tgz": "chart", "secret": "secret"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(dir), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/static/charts/a.tgz", 200, "chart"},
		{"HEAD", "/static/charts/a.tgz", 200, ""},
		{"PUT", "/static/charts/a.tgz", 405, "files are only read here\n"},
		{"GET", "/static/charts", 404, "404 page not found\n"},
		{"GET", "/static/", 404, "404 page not found\n"},
		{"GET", "/static/../secret", 404, "404 page not found\n"},
		{"GET", "/static/out", 404, "404 page not found\n"},
		{"GET", "/api/v1/static/a", 200, "the API"},
		{"POST", "/static", 200, "the API"},
	} {
		if code, body := ask(tt.method, tt.path); code != tt.code || body != tt.body {
			t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.path, code, body, tt.code, tt.body)
		}
	}
}
