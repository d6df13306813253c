package etcdmember

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/knarr-io/knarr/tests/bed"
	"github.com/knarr-io/knarr/tests/bed/api"
)

// TestDeletedNodeLosesItsMember has the first attempt fail, as it does while other members are down.
func TestDeletedNodeLosesItsMember(t *testing.T) {
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	client := fake.NewClientset(node("stays"), node("goes"))
	asked := make(chan string, 10)
	failed := false
	remove := func(_ context.Context, node string) ([]string, error) {
		asked <- node
		if !failed {
			failed = true
			return nil, errors.New("unhealthy cluster")
		}
		return []string{node + "-01234567"}, nil
	}
	c := New(api.Informers(t, client), remove, slog.New(slog.NewTextHandler(t.Output(), nil)))
	stop := bed.Run(t, c)
	if err := client.CoreV1().Nodes().Delete(t.Context(), "goes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case got := <-asked:
			if got != "goes" {
				t.Errorf("members of %s were removed", got)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no member was removed")
		}
	}
	stop()
	if len(asked) > 0 {
		t.Errorf("asked once more, for %s", <-asked)
	}
}
