// Package api is the part of a test's bed that is made of a fake API: see tests/bed.
package api

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/tests/bed"
)

// Client is how components ask for a client.
func Client(c kubernetes.Interface) func() (kubernetes.Interface, error) {
	return func() (kubernetes.Interface, error) { return c, nil }
}

// Informers is how components ask for the shared informers. These end with the test, after the components that were
// started since.
func Informers(t testing.TB, c kubernetes.Interface) func() informers.SharedInformerFactory {
	factory := informers.NewSharedInformerFactory(c, 0)
	t.Cleanup(factory.Shutdown)
	return func() informers.SharedInformerFactory { return factory }
}

// Told waits for an event for a reason, with a text in its message.
func Told(t testing.TB, c kubernetes.Interface, reason, text string) {
	t.Helper()
	bed.Eventually(t, fmt.Sprintf("an event %s with %q", reason, text), func() error {
		list, err := c.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("there are %q", seen)
	})
}
