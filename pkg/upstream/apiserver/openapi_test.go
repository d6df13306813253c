package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOnceAnswered(t *testing.T) {
	calls := 0
	h := &onceAnswered{path: openAPIIndex, next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls == 1 {
			http.Error(w, "not yet", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "%s %d", r.URL.Path, calls)
	})}
	for _, step := range []struct {
		method, path string
		code         int
		body, kind   string
	}{
		{"GET", openAPIIndex, 404, "not yet\n", "text/plain; charset=utf-8"}, // a failure is not remembered
		{"GET", openAPIIndex, 200, "/openapi/v3 2", "application/json"},
		{"GET", openAPIIndex, 200, "/openapi/v3 2", "application/json"},
		{"GET", "/openapi/v3/api/v1", 200, "/openapi/v3/api/v1 3", "application/json"},
		{"POST", openAPIIndex, 200, "/openapi/v3 4", "application/json"},
		{"GET", openAPIIndex, 200, "/openapi/v3 2", "application/json"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(step.method, step.path, nil))
		if w.Code != step.code || w.Body.String() != step.body || w.Header().Get("Content-Type") != step.kind {
			t.Errorf("%s %s: %d %q %q, want %d %q %q", step.method, step.path,
				w.Code, w.Body, w.Header().Get("Content-Type"), step.code, step.body, step.kind)
		}
	}
}
