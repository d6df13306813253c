package helm

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// The charts that use a Secret hear of its changes, each, and nobody else; what nobody uses is not watched.
func TestSecretWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var mu sync.Mutex
		var heard []string
		w := newSecretWatch(client, func(chart string) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, chart)
		})
		defer w.stop()
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if slices.Sort(heard); !slices.Equal(heard, want) {
				t.Errorf("%s: heard %v, want %v", what, heard, want)
			}
			heard = nil
		}
		secrets := client.CoreV1().Secrets("n")
		write := func(version string) {
			t.Helper()
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", ResourceVersion: version}}
			if _, err := secrets.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		w.set("n/a", []string{"s"})
		w.set("n/b", []string{"s"})
		expect("before there is one")
		if _, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", ResourceVersion: "1"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("created", "n/a", "n/b")
		write("2")
		expect("changed", "n/a", "n/b")
		w.set("n/a", nil)
		write("3")
		expect("changed, one has left", "n/b")
		w.set("n/b", nil)
		write("4")
		expect("changed, all have left")
		if len(w.watched) != 0 {
			t.Errorf("%d Secrets are watched", len(w.watched))
		}
	})
}
