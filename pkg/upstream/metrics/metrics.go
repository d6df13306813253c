// Package metrics serves the resource metrics API (metrics.k8s.io), which kubectl top and the HorizontalPodAutoscaler
// read: metrics-server's REST storage (sigs.k8s.io/metrics-server v0.9.0 pkg/api), installed in the embedded
// kube-apiserver like any built-in group, and answered from the kubelets' summaries.
//
// Nothing is collected while nobody asks, and nothing is kept but the last answers for a few seconds: no cache of pods or
// nodes, no goroutine, no second server, no certificate. A kubelet works out CPU rates by itself, so the first answer is as
// good as any; metrics-server instead scrapes every 15 s and has to wait for a second scrape.
//
// It is not monitoring: for that, kube-apiserver's /metrics has the metrics of the whole process. There is nothing to
// stop: requests end with their contexts.
package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/metrics/pkg/apis/metrics"
	"sigs.k8s.io/metrics-server/pkg/api"
)

const (
	// fresh is how long a kubelet's summary answers for: kubelets themselves look at containers every 10 s.
	fresh = 10 * time.Second
	// window is the time over which a kubelet works out a CPU rate: about its housekeeping interval.
	window = 10 * time.Second
	// answerWithin bounds how long one kubelet is waited for; it then has no metrics in this answer.
	answerWithin = 5 * time.Second
	// together is how many kubelets are asked at a time.
	together = 32
	// summary is the part of a kubelet's statistics that is needed (kubernetes pkg/kubelet/server/stats/handler.go).
	summary = "stats/summary"
)

// Config is what the API needs.
type Config struct {
	// Client reaches kube-apiserver, and the kubelets through it. It is called first when a request comes.
	Client func() (kubernetes.Interface, error)
	Logger *slog.Logger
}

// API is the resource metrics API. Use [New].
type API struct {
	kubelets *kubelets
	objects  objects
}

// New returns an API to install.
func New(c Config) *API {
	ask := func(ctx context.Context, node string) (*stats.Summary, error) {
		client, err := c.Client()
		if err != nil {
			return nil, err
		}
		data, err := client.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix(summary).
			Param("only_cpu_and_memory", "true").SetHeader("Accept", "application/json").DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask the kubelet of node %s for its summary: %w", node, err)
		}
		s := &stats.Summary{}
		if err := json.Unmarshal(data, s); err != nil {
			return nil, fmt.Errorf("read the summary of the kubelet of node %s: %w", node, err)
		}
		return s, nil
	}
	return &API{kubelets: newKubelets(ask, time.Now, c.Logger), objects: objects{c.Client}}
}

// Install adds the API to s. Call it before s is prepared to run.
func (a *API) Install(s *genericapiserver.GenericAPIServer) error {
	if err := api.Install(a, pods{a.objects}, nodes{a.objects}, s, nil); err != nil {
		return fmt.Errorf("install the resource metrics API: %w", err)
	}
	return nil
}

// GetNodeMetrics returns what the given nodes use; those whose kubelet does not answer are left out.
func (a *API) GetNodeMetrics(list ...*corev1.Node) ([]metrics.NodeMetrics, error) {
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = n.Name
	}
	found := a.kubelets.summaries(names)
	var out []metrics.NodeMetrics
	for _, n := range list {
		s, ok := found[n.Name]
		if !ok {
			continue
		}
		if u, ok := measure(s.Node.CPU, s.Node.Memory); ok {
			out = append(out, metrics.NodeMetrics{
				ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, CreationTimestamp: metav1.NewTime(time.Now())},
				Timestamp:  u.at, Window: metav1.Duration{Duration: window}, Usage: u.list(),
			})
		}
	}
	return out, nil
}

// GetPodMetrics returns what the containers of the given pods use. A pod is left out until each of its running
// containers has been measured, as metrics-server does: half a pod would mislead the autoscaler.
func (a *API) GetPodMetrics(list ...*metav1.PartialObjectMetadata) ([]metrics.PodMetrics, error) {
	if len(list) == 0 {
		return nil, nil
	}
	names, err := a.objects.nodeNames()
	if err != nil {
		return nil, err
	}
	measured := map[types.UID]*stats.PodStats{}
	for _, s := range a.kubelets.summaries(names) {
		for i := range s.Pods {
			measured[types.UID(s.Pods[i].PodRef.UID)] = &s.Pods[i]
		}
	}
	var out []metrics.PodMetrics
	for _, p := range list {
		s, ok := measured[p.UID]
		if !ok {
			continue
		}
		if containers, at, ok := measureContainers(s); ok {
			out = append(out, metrics.PodMetrics{
				ObjectMeta: metav1.ObjectMeta{
					Name: p.Name, Namespace: p.Namespace, Labels: p.Labels, CreationTimestamp: metav1.NewTime(time.Now()),
				},
				Timestamp: at, Window: metav1.Duration{Duration: window}, Containers: containers,
			})
		}
	}
	return out, nil
}

// measureContainers returns what the containers of a pod use, and when the oldest figure was taken.
func measureContainers(p *stats.PodStats) (list []metrics.ContainerMetrics, at metav1.Time, ok bool) {
	for _, c := range p.Containers {
		u, ok := measure(c.CPU, c.Memory)
		if !ok {
			return nil, at, false
		}
		if at.IsZero() || u.at.Before(&at) {
			at = u.at
		}
		list = append(list, metrics.ContainerMetrics{Name: c.Name, Usage: u.list()})
	}
	slices.SortFunc(list, func(a, b metrics.ContainerMetrics) int { return strings.Compare(a.Name, b.Name) })
	return list, at, len(list) > 0
}
