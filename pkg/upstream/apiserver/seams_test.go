package apiserver

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// A server whose API is not ready must not keep itself waiting: every start would last as long as the hold.
func TestOnlyForeignCallersWaitForTheAPI(t *testing.T) {
	network := func(path, serverName string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.TLS = &tls.ConnectionState{ServerName: serverName}
		return r
	}
	inProcess := httptest.NewRequest(http.MethodGet, "/api", nil)
	inProcess.TLS = nil
	gone, leave := context.WithCancel(context.Background())
	leave()
	tests := []struct {
		name    string
		request *http.Request
		want    time.Duration
	}{
		{"a client", network("/api", "node"), holdLimit},
		{"a client without a server name", network("/readyzed", ""), holdLimit},
		{"a client that left", network("/api", "node").WithContext(gone), 0},
		{"health", network("/readyz", "node"), 0},
		{"a single check", network("/livez/etcd", "node"), 0},
		{"kube-apiserver's own informers", network("/api", "apiserver-loopback-client"), 0},
		{"the process", inProcess, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &Component{up: make(chan struct{})}
				served := false
				api := c.whenReady(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }))
				start := time.Now()
				api.ServeHTTP(httptest.NewRecorder(), tt.request)
				if waited := time.Since(start); waited != tt.want || !served {
					t.Errorf("waited %v and served %v, want %v and true", waited, served, tt.want)
				}
			})
		})
	}
}

func TestCallersGoOnWhenTheAPIIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Component{up: make(chan struct{})}
		time.AfterFunc(time.Second, func() { close(c.up) })
		api := c.whenReady(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		r := httptest.NewRequest(http.MethodGet, "/api", nil)
		r.TLS = &tls.ConnectionState{}
		start := time.Now()
		for range 2 {
			api.ServeHTTP(httptest.NewRecorder(), r)
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("two calls waited %v, want the second until the API was ready", waited)
		}
	})
}
