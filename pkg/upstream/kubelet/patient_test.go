package kubelet

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// refusing refuses the first requests.
type refusing struct{ refuse, asked int }

func (r *refusing) RoundTrip(*http.Request) (*http.Response, error) {
	r.asked++
	status := http.StatusOK
	if r.asked <= r.refuse {
		status = http.StatusForbidden
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(""))}, nil
}

func TestPatient(t *testing.T) {
	for _, tt := range []struct {
		name, method  string
		refuse        int
		status, asked int
		took          time.Duration
	}{
		{"allowed", http.MethodGet, 0, 200, 1, 0},
		{"allowed a little later", http.MethodGet, 3, 200, 4, 35 * time.Millisecond},
		{"never allowed", http.MethodGet, 100, 403, 8, 635 * time.Millisecond},
		{"a write is not repeated", http.MethodPost, 1, 403, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req, err := http.NewRequest(tt.method, "http://api/", nil)
				if err != nil {
					t.Fatal(err)
				}
				began, next := time.Now(), &refusing{refuse: tt.refuse}
				resp, err := patient{next}.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != tt.status || next.asked != tt.asked || time.Since(began) != tt.took {
					t.Errorf("got %d after %d requests in %s, want %d after %d in %s", resp.StatusCode, next.asked, time.Since(began), tt.status, tt.asked, tt.took)
				}
			})
		})
	}
}

func TestPatientIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (patient{&refusing{refuse: 100}}).RoundTrip(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}
