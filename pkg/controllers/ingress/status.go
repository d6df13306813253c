package ingress

import (
	"context"
	"errors"
	"fmt"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/pkg/retry"
)

const (
	// class is the name of the IngressClass and of the DaemonSet in manifests/traefik.
	class = "traefik"
	// ours is the label that the addon controller puts on what it makes.
	ours = "knarr.io/addon"
)

// Withdraw takes the addresses back that a Traefik of knarr's has put into Ingresses, once that Traefik is gone for good: it
// does not do so itself, and what reads them (external-dns, people) would go on sending requests there. An Ingress whose
// class belongs to somebody else's Traefik is left alone.
func Withdraw(ctx context.Context, client kubernetes.Interface) error {
	return retry.Until(ctx, "addresses of Ingresses to be withdrawn", retry.Backoff{First: time.Second, Max: time.Minute}, func(ctx context.Context) (bool, error) {
		stale, err := orphans(ctx, client)
		if err != nil || len(stale) == 0 {
			return err == nil, err
		}
		_, err = client.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, class, metav1.GetOptions{})
		if err == nil {
			return false, errors.New("the DaemonSet of Traefik is still there, which would write them again")
		}
		if !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("look for Traefik: %w", err)
		}
		for _, i := range stale {
			_, err := client.NetworkingV1().Ingresses(i.Namespace).Patch(ctx, i.Name, types.MergePatchType,
				[]byte(`{"status":{"loadBalancer":{"ingress":null}}}`), metav1.PatchOptions{}, "status")
			if err != nil && !apierrors.IsNotFound(err) {
				return false, fmt.Errorf("withdraw the addresses of Ingress %s/%s: %w", i.Namespace, i.Name, err)
			}
		}
		return true, nil
	})
}

// orphans are the Ingresses with addresses whose class nobody but knarr's Traefik serves.
func orphans(ctx context.Context, client kubernetes.Interface) ([]networkingv1.Ingress, error) {
	c, err := client.NetworkingV1().IngressClasses().Get(ctx, class, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return nil, fmt.Errorf("look for the IngressClass %s: %w", class, err)
	case c.Labels[ours] == "":
		return nil, nil
	}
	all, err := client.NetworkingV1().Ingresses(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Ingresses: %w", err)
	}
	var found []networkingv1.Ingress
	for _, i := range all.Items {
		if i.Spec.IngressClassName != nil && *i.Spec.IngressClassName == class && len(i.Status.LoadBalancer.Ingress) > 0 {
			found = append(found, i)
		}
	}
	return found, nil
}
