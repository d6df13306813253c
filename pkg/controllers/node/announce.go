package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/knarr-io/knarr/pkg/retry"
)

// Announce waits until the kubelet has registered the node and then puts its addresses into its annotations, for the
// [Controller] on a server, and its runtimes into its labels. It runs on the node's side and needs no more than a
// kubelet's rights: to get, watch and patch its own Node. Those of ours that an earlier configuration left and this one
// does not have are removed; when all is as it should be, nothing is written.
//
// It tries again while the API is away, so the only errors are that ctx ended and that the API refuses.
func Announce(ctx context.Context, client kubernetes.Interface, nodeName string, a Addresses) error {
	want := a.annotations(nodeName)
	return retry.Until(ctx, "node "+nodeName+" to be registered", retry.Backoff{}, func(ctx context.Context) (bool, error) {
		node, err := await(ctx, client, nodeName)
		if err != nil {
			return false, err
		}
		patch, err := annotate(node, want, a.labels(node.Labels))
		if err != nil || patch == nil {
			return true, err
		}
		_, err = client.CoreV1().Nodes().Patch(ctx, nodeName, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			return true, nil
		}
		final := apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
		return final, fmt.Errorf("announce the addresses of node %s: %w", nodeName, err)
	})
}

// await returns the Node as soon as there is one. It watches: a registration is noticed at once and waiting is free.
func await(ctx context.Context, client kubernetes.Interface, nodeName string) (*corev1.Node, error) {
	return awaitThat(ctx, client, nodeName, func(*corev1.Node) bool { return true })
}

// awaitThat returns the Node as soon as it is as good wants it.
func awaitThat(ctx context.Context, client kubernetes.Interface, nodeName string, good func(*corev1.Node) bool) (*corev1.Node, error) {
	event, err := watchtools.UntilWithSync(ctx, only(client, nodeName), &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		return ok && node.Name == nodeName && e.Type != watch.Deleted && good(node), nil
	})
	if err != nil {
		return nil, fmt.Errorf("watch node %s: %w", nodeName, err)
	}
	return event.Object.(*corev1.Node), nil // as the condition has seen
}

// Deleted waits until the node, which is registered, is registered no more. Like [Announce], it tries again while the API
// is away: what nobody can be asked about is not gone.
func Deleted(ctx context.Context, client kubernetes.Interface, nodeName string) error {
	return retry.Until(ctx, "node "+nodeName+" to be deleted", retry.Backoff{}, func(ctx context.Context) (bool, error) {
		missing := func(store cache.Store) (bool, error) {
			if len(store.List()) == 0 {
				return false, errMissing
			}
			return false, nil
		}
		_, err := watchtools.UntilWithSync(ctx, only(client, nodeName), &corev1.Node{}, missing, func(e watch.Event) (bool, error) {
			return e.Type == watch.Deleted, nil
		})
		if err != nil && !errors.Is(err, errMissing) {
			return false, fmt.Errorf("watch node %s: %w", nodeName, err)
		}
		// A watch may be of a server that has only just started: the datastore has the last word.
		_, err = client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

var errMissing = errors.New("there is no such node")

// only lists and watches one Node.
func only(client kubernetes.Interface, nodeName string) cache.ListerWatcher {
	nodes := client.CoreV1().Nodes()
	// The node authorizer allows a kubelet to list and watch only with this selector.
	selector := fields.OneTermEqualSelector("metadata.name", nodeName).String()
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return nodes.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return nodes.Watch(ctx, o)
		},
	}, client)
}

// publishLimit is how long a server may take to make an announcement the node's status. One whose cloud-controller-manager
// is another's never does.
const publishLimit = 10 * time.Second

// Published waits until the node's status has the internal addresses that were announced, and reports whether it has:
// kube-proxy must not see them change (k8s.io/kubernetes/pkg/proxy/node.go:207).
func Published(ctx context.Context, client kubernetes.Interface, nodeName string, ips []netip.Addr) bool {
	var want []string
	for _, ip := range ips {
		want = append(want, ip.String())
	}
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	_, err := awaitThat(ctx, client, nodeName, func(n *corev1.Node) bool { return slices.Equal(current(n, corev1.NodeInternalIP), want) })
	return err == nil
}

// annotate makes the merge patch that gives node the annotations and labels; nil when it has them. A merge patch touches
// only the keys it names, so it conflicts with nobody.
func annotate(node *corev1.Node, annotations, labels map[string]string) ([]byte, error) {
	metadata := map[string]any{}
	if c := changes(node.Annotations, annotations); len(c) > 0 {
		metadata["annotations"] = c
	}
	if c := changes(node.Labels, labels); len(c) > 0 {
		metadata["labels"] = c
	}
	if len(metadata) == 0 {
		return nil, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return nil, fmt.Errorf("encode the annotations of node %s: %w", node.Name, err)
	}
	return patch, nil
}

// changes are the keys whose text is another; nil takes a key away, as "" in want does.
func changes(has, want map[string]string) map[string]*string {
	change := make(map[string]*string)
	for key, text := range want {
		old, there := has[key]
		switch {
		case text == "" && there:
			change[key] = nil
		case text != old:
			change[key] = &text
		}
	}
	return change
}
