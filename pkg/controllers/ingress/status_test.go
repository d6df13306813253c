package ingress

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

func withAddress(name, class string) *networkingv1.Ingress {
	return &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"},
		Spec:       networkingv1.IngressSpec{IngressClassName: &class},
		Status:     networkingv1.IngressStatus{LoadBalancer: networkingv1.IngressLoadBalancerStatus{Ingress: []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}}},
	}
}

func TestWithdraw(t *testing.T) {
	theirs := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: class}}
	mine := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: class, Labels: map[string]string{ours: "traefik"}}}
	for _, tt := range []struct {
		name  string
		class []runtime.Object
		stays bool
	}{
		{"the class is gone", nil, false},
		{"the class is about to go", []runtime.Object{mine}, false},
		{"somebody else's Traefik serves the class", []runtime.Object{theirs}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset(append(tt.class, withAddress("web", class), withAddress("other", "nginx"))...)
			if err := Withdraw(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			for name, stays := range map[string]bool{"web": tt.stays, "other": true} {
				i, err := client.NetworkingV1().Ingresses("shop").Get(t.Context(), name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if got := len(i.Status.LoadBalancer.Ingress) > 0; got != stays {
					t.Errorf("%s has an address: %v, want %v", name, got, stays)
				}
			}
		})
	}
}

// While Traefik runs it would write the addresses again.
func TestWithdrawWaitsForTraefik(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(withAddress("web", class), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: class, Namespace: metav1.NamespaceSystem}})
		address := func() int {
			i, err := client.NetworkingV1().Ingresses("shop").Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(i.Status.LoadBalancer.Ingress)
		}
		done := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() { done <- Withdraw(ctx, client) }()
		time.Sleep(10 * time.Second)
		if address() != 1 {
			t.Error("the address was withdrawn while Traefik runs")
		}
		if err := client.AppsV1().DaemonSets(metav1.NamespaceSystem).Delete(ctx, class, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || address() != 0 {
			t.Errorf("%d addresses, %v", address(), err)
		}
	})
}
