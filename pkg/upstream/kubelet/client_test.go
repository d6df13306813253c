package kubelet

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
)

// api answers with a status.
func api(status int) http.RoundTripper {
	return roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Body: http.NoBody}, nil
	})
}

func request(t *testing.T, ctx context.Context, method, path string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://api"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestCSINodeWaitsForTheNode asks for a CSINode before and after different things have happened.
func TestCSINodeWaitsForTheNode(t *testing.T) {
	for name, tt := range map[string]struct {
		method, path string
		status       int
		registers    bool
		held         bool
	}{
		"registered":             {"POST", "/api/v1/nodes", 201, true, false},
		"was registered before":  {"POST", "/api/v1/nodes", 409, true, false},
		"not allowed":            {"POST", "/api/v1/nodes", 403, true, true},
		"read, which is no sign": {"GET", "/api/v1/nodes/own", 200, true, true},
		"others register it":     {"GET", "/healthz", 200, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := newRegistering(tt.registers).before(api(tt.status))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				answered := make(chan error, 1)
				go func() {
					_, err := client.RoundTrip(request(t, ctx, "GET", "/apis/storage.k8s.io/v1/csinodes/own"))
					answered <- err
				}()
				if _, err := client.RoundTrip(request(t, ctx, tt.method, tt.path)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if held := len(answered) == 0; held != tt.held {
					t.Errorf("held is %v, want %v", held, tt.held)
				}
				cancel()
				if err := <-answered; tt.held && !errors.Is(err, context.Canceled) {
					t.Errorf("given up with %v", err)
				}
			})
		})
	}
}
