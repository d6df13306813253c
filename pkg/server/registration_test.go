package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// TestDeletedNodeRegistersAgain deletes this server's node and another, where the server stays in its cluster and where its
// member leaves etcd.
func TestDeletedNodeRegistersAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		delete, create []string
		leaves         bool
		left           error // of an etcd that no longer answers
		want           string
	}{
		"its own":                {delete: []string{"own"}, want: "node own was deleted and registers again"},
		"another":                {delete: []string{"other"}},
		"its own, and is back":   {delete: []string{"own"}, create: []string{"own"}},
		"its own, and it leaves": {delete: []string{"own"}, leaves: true},
		"its own, and it left":   {delete: []string{"own"}, left: errors.New("etcd: server stopped")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
				client := fake.NewClientset(node("own"), node("other"))
				ctx, cancel := context.WithCancel(t.Context())
				factory := informers.NewSharedInformerFactory(client, 0)
				r := registration{"own", func() (kubernetes.Interface, error) { return client, nil }, func() informers.SharedInformerFactory { return factory },
					func(context.Context) (bool, error) { return tt.leaves, tt.left }, slog.New(slog.DiscardHandler)}
				done := make(chan error, 1)
				go func() { done <- r.Run(ctx, func() {}) }()
				synctest.Wait()
				for _, n := range tt.delete {
					if err := client.CoreV1().Nodes().Delete(ctx, n, metav1.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range tt.create {
					if _, err := client.CoreV1().Nodes().Create(ctx, node(n), metav1.CreateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if tt.want == "" {
					cancel()
				}
				err := <-done
				cancel()
				factory.Shutdown()
				again := new(lifecycle.Restart)
				if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &again) || !strings.Contains(again.Reason, tt.want)) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			})
		})
	}
}
