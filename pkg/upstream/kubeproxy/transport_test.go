package kubeproxy

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

const (
	added    = `{"type":"ADDED","object":{"kind":"Node","apiVersion":"v1","metadata":{"name":"n","resourceVersion":"1"}}}` + "\n"
	removed  = `{"type":"DELETED","object":{"kind":"Node","apiVersion":"v1","metadata":{"name":"n","resourceVersion":"2"}}}` + "\n"
	bookmark = `{"type":"BOOKMARK","object":{"kind":"Node","apiVersion":"v1","metadata":{"resourceVersion":"3","annotations":{"k8s.io/initial-events-end":"true"}}}}` + "\n"
)

// A Node that is deleted is not seen deleted, be it in a watch, in a streamed list or in a list.
func TestDeaf(t *testing.T) {
	var answer atomic.Value
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(answer.Load().(string)))
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	file, copied := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	given := api.NewConfig()
	given.Clusters["c"] = &api.Cluster{Server: srv.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})}
	given.AuthInfos["u"] = &api.AuthInfo{}
	given.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	given.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*given, file); err != nil {
		t.Fatal(err)
	}
	if err := steady(file, copied); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", copied)
	if err != nil {
		t.Fatal(err)
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, answer string
		want         []string // types of events
	}{
		{"deleted", added + removed, []string{"ADDED"}},
		{"there", added + bookmark, []string{"ADDED", "BOOKMARK"}},
		{"not there from the beginning", bookmark, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer.Store(tt.answer)
			w, err := client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			for _, want := range tt.want {
				if got := <-w.ResultChan(); string(got.Type) != want {
					t.Errorf("got %s, want %s", got.Type, want)
				}
			}
			select {
			case e := <-w.ResultChan():
				t.Errorf("heard of %v", e)
			case <-time.After(100 * time.Millisecond):
			}
		})
	}
	t.Run("lists", func(t *testing.T) {
		answer.Store(`{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"n"}}]}` + "\n")
		l, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil || len(l.Items) != 1 {
			t.Errorf("got %v, %v", l, err)
		}
		answer.Store(`{"kind":"NodeList","apiVersion":"v1","items":[]}` + "\n")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if l, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
			t.Errorf("an empty list was heard: %v", l)
		}
	})
	t.Run("others", func(t *testing.T) {
		answer.Store(`{"kind":"ServiceList","apiVersion":"v1","items":[]}`)
		if l, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil || len(l.Items) != 0 {
			t.Errorf("got %v, %v", l, err)
		}
	})
}
