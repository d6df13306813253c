package servicelb

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
)

// Release takes back the addresses that a [Controller] once gave, for a cluster whose load balancer is switched off.
// Addresses that anybody else has set since are left alone: the API records who sets a field. When ctx ends it returns
// the error of the request under way.
func Release(ctx context.Context, client kubernetes.Interface, log *slog.Logger) error {
	list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.type", string(corev1.ServiceTypeLoadBalancer)).String()})
	if err != nil {
		return fmt.Errorf("list load balancer services: %w", err)
	}
	for i := range list.Items {
		s := &list.Items[i]
		if len(s.Status.LoadBalancer.Ingress) == 0 || !given(s) {
			continue
		}
		if err := patchIngress(ctx, client, s, nil); err != nil {
			return err
		}
		log.Info("took the addresses of a load balancer service back", "service", key(s))
	}
	return nil
}

// given tells whether the status of s is ours.
func given(s *corev1.Service) bool {
	for _, f := range s.ManagedFields {
		if f.Manager == fieldManager && f.Subresource == "status" {
			return true
		}
	}
	return false
}
