package shutdown

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// critical is the lowest priority of system classes (k8s.io/kubernetes/pkg/apis/scheduling/types.go:31).
const critical = 2_000_000_000

// What the kubelet writes on containers, so that it can end pods it knows nothing of (kuberuntime/labels.go:32).
const (
	labelContainer      = "io.kubernetes.container.name"
	annotationGrace     = "io.kubernetes.pod.terminationGracePeriod"
	annotationPreStop   = "io.kubernetes.container.preStopHandler"
	annotationPorts     = "io.kubernetes.container.ports"
	kubeSystem          = metav1.NamespaceSystem
	systemNodeCritical  = critical + 1000
	defaultGraceSeconds = corev1.DefaultTerminationGracePeriodSeconds
)

// spec is what the API knows of a pod and its containers do not say.
type spec struct {
	priority int32
	// sidecars are the restartable init containers, in the order in which they were started.
	sidecars []string
}

// specsOf has the specs of a node's pods by their UIDs.
func specsOf(ctx context.Context, client kubernetes.Interface, node string) (map[string]spec, error) {
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node, ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list the pods of node %s: %w", node, err)
	}
	specs := map[string]spec{}
	for i := range pods.Items {
		p := &pods.Items[i]
		uid := string(p.UID)
		if static := p.Annotations[corev1.MirrorPodAnnotationKey]; static != "" {
			uid = static // which is what the runtime knows the pod by
		}
		specs[uid] = specOf(p)
	}
	return specs, nil
}

func specOf(p *corev1.Pod) spec {
	var s spec
	if p.Spec.Priority != nil {
		s.priority = *p.Spec.Priority
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			s.sidecars = append(s.sidecars, c.Name)
		}
	}
	return s
}

// pod is one that runs.
type pod struct {
	spec
	sandbox    string
	namespace  string
	name       string
	containers []*runtimeapi.Container
}

func (p pod) String() string { return p.namespace + "/" + p.name }

// pods are those whose sandbox or containers run.
func (e *ender) pods(ctx context.Context, specs map[string]spec) ([]pod, error) {
	ready := &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}
	sandboxes, err := e.runtime.ListPodSandbox(ctx, ready)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	containers, err := e.runtime.ListContainers(ctx, running)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pods := make([]pod, 0, len(sandboxes))
	for _, s := range sandboxes {
		p := pod{sandbox: s.GetId(), namespace: s.GetMetadata().GetNamespace(), name: s.GetMetadata().GetName()}
		known := false
		if p.spec, known = specs[s.GetMetadata().GetUid()]; !known && p.namespace == kubeSystem {
			p.priority = systemNodeCritical
		}
		for _, c := range containers {
			if c.GetPodSandboxId() == p.sandbox {
				p.containers = append(p.containers, c)
			}
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// group is pods of one priority.
type group struct {
	priority int32
	pods     []pod
}

// byPriority groups pods, the least important first.
func byPriority(pods []pod) []group {
	groups := map[int32]group{}
	for _, p := range pods {
		g := groups[p.priority]
		g.priority, g.pods = p.priority, append(g.pods, p)
		groups[p.priority] = g
	}
	return slices.SortedFunc(maps.Values(groups), func(a, b group) int { return cmp.Compare(a.priority, b.priority) })
}

// grace is how long the pod asks to be given.
func (p pod) grace() time.Duration {
	seconds := int64(defaultGraceSeconds)
	for _, c := range p.containers {
		if s, err := strconv.ParseInt(c.GetAnnotations()[annotationGrace], 10, 64); err == nil {
			seconds = s
		}
	}
	return time.Duration(seconds) * time.Second
}

// split has the containers in the order of their ends: all but the sidecars, which end together, then each sidecar, the
// last started first.
func (p pod) split() (main, sidecars []*runtimeapi.Container) {
	for _, c := range p.containers {
		if slices.Contains(p.sidecars, c.GetLabels()[labelContainer]) {
			sidecars = append(sidecars, c)
		} else {
			main = append(main, c)
		}
	}
	slices.SortFunc(sidecars, func(a, b *runtimeapi.Container) int {
		place := func(c *runtimeapi.Container) int { return slices.Index(p.sidecars, c.GetLabels()[labelContainer]) }
		return place(b) - place(a)
	})
	return main, sidecars
}

// preStop is a container's hook, nil when it has none.
func preStop(c *runtimeapi.Container) (*corev1.LifecycleHandler, error) {
	text := c.GetAnnotations()[annotationPreStop]
	if text == "" {
		return nil, nil
	}
	hook := &corev1.LifecycleHandler{}
	if err := json.Unmarshal([]byte(text), hook); err != nil {
		return nil, fmt.Errorf("read the preStop hook %q: %w", text, err)
	}
	return hook, nil
}
