package metrics

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// objects reads nodes and pods from the apiserver's own cache, which is in this process: a cache of them here would only
// be a second one.
type objects struct {
	client func() (kubernetes.Interface, error)
}

// cached lists what the apiserver has in memory.
func cached(s labels.Selector) metav1.ListOptions {
	return metav1.ListOptions{ResourceVersion: "0", LabelSelector: s.String()}
}

func (o objects) nodeNames() ([]string, error) {
	list, err := nodes{o}.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = n.Name
	}
	return names, nil
}

// nodes is a lister of nodes, as metrics-server's storage wants one.
type nodes struct{ objects }

var _ corelisters.NodeLister = nodes{}

// List returns the nodes that s selects.
func (n nodes) List(s labels.Selector) ([]*corev1.Node, error) {
	client, err := n.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	list, err := client.CoreV1().Nodes().List(ctx, cached(s))
	if err != nil {
		return nil, err
	}
	out := make([]*corev1.Node, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

// Get returns the node of that name.
func (n nodes) Get(name string) (*corev1.Node, error) {
	client, err := n.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	return client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
}

// pods is a lister of the metadata of running pods: others use nothing (metrics-server v0.9.0 pkg/server/config.go:73).
type pods struct{ objects }

var _ cache.GenericLister = pods{}

// List returns the pods of all namespaces that s selects.
func (p pods) List(s labels.Selector) ([]runtime.Object, error) {
	return p.namespace(metav1.NamespaceAll).List(s)
}

// Get takes "namespace/name".
func (p pods) Get(key string) (runtime.Object, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, err
	}
	return p.namespace(namespace).Get(name)
}

// ByNamespace returns a lister for one namespace, "" for all.
func (p pods) ByNamespace(namespace string) cache.GenericNamespaceLister {
	return p.namespace(namespace)
}

func (p pods) namespace(name string) podsOf { return podsOf{p.objects, name} }

type podsOf struct {
	objects
	namespace string
}

func (p podsOf) List(s labels.Selector) ([]runtime.Object, error) {
	client, err := p.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	options := cached(s)
	options.FieldSelector = "status.phase=" + string(corev1.PodRunning)
	list, err := client.CoreV1().Pods(p.namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	out := make([]runtime.Object, len(list.Items))
	for i := range list.Items {
		out[i] = metadata(&list.Items[i])
	}
	return out, nil
}

func (p podsOf) Get(name string) (runtime.Object, error) {
	client, err := p.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	pod, err := client.CoreV1().Pods(p.namespace).Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	if pod.Status.Phase != corev1.PodRunning {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), p.namespace+"/"+name)
	}
	return metadata(pod), nil
}

func metadata(p *corev1.Pod) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: p.ObjectMeta}
}
