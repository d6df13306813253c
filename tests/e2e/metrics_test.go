package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestTop is the first thing a user tries: it has figures at once.
func TestTop(t *testing.T) {
	e := inNamespace(t)
	e.createPod(pod("idle", idle("main")))
	e.waitPods("idle", 1)
	figures := regexp.MustCompile(`(?m)^\S+\s+\d+m\s+(\d+%\s+)?\d+Mi`)
	for _, args := range [][]string{{"top", "nodes"}, {"top", "pods"}, {"top", "pod", "idle", "--containers"}} {
		e.eventually("figures in kubectl "+strings.Join(args, " "), func() error {
			out, err := e.runKubectl(args...)
			if err == nil && !figures.MatchString(strings.ReplaceAll(out, "idle   main", "idle")) {
				err = fmt.Errorf("no figures in %q", out)
			}
			return err
		})
	}
}

// TestHorizontalPodAutoscaler scales up while the pods are busy and down when they rest.
func TestHorizontalPodAutoscaler(t *testing.T) {
	e := inNamespace(t)
	c := shell("main", "trap 'exit 0' TERM; while [ ! -e /tmp/rest ]; do :; done; while :; do sleep 3600 & wait; done")
	c.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("60m")}, // the machine has other things to do
	}
	_, err := e.client.AppsV1().Deployments(e.ns).Create(e.ctx, deployment("busy", 1, c), metav1.CreateOptions{})
	e.must(err)
	e.waitPods("busy", 1)
	scalers := e.client.AutoscalingV2().HorizontalPodAutoscalers(e.ns)
	_, err = scalers.Create(e.ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "busy"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "busy"},
			MinReplicas:    ptr.To[int32](1),
			MaxReplicas:    2,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
			}}},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
				ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0)},
			},
		},
	}, metav1.CreateOptions{})
	e.must(err)
	wanted := func(n int32) {
		e.eventually(fmt.Sprintf("the autoscaler to want %d replicas", n), func() error {
			h, err := scalers.Get(e.ctx, "busy", metav1.GetOptions{})
			if err == nil && h.Status.DesiredReplicas != n {
				err = fmt.Errorf("it wants %d: %v", h.Status.DesiredReplicas, h.Status.Conditions)
			}
			return err
		})
	}
	wanted(2)
	e.waitPods("busy", 2)
	pods, err := e.client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: "app=busy"})
	e.must(err)
	for _, p := range pods.Items {
		_, err := e.inPod(p.Name, "touch /tmp/rest")
		e.must(err)
	}
	wanted(1)
}

// TestOneMetricsEndpoint looks for every component of the process at kube-apiserver's /metrics.
func TestOneMetricsEndpoint(t *testing.T) {
	e := inNamespace(t)
	out := e.mustKubectl("get", "--raw", "/metrics")
	for component, name := range map[string]string{
		"kube-apiserver":          "apiserver_request_total",
		"kube-scheduler":          "scheduler_pending_pods",
		"kube-controller-manager": "garbagecollector_controller_resources_sync_error_total",
		"kubelet":                 "kubelet_running_pods",
		"kube-proxy":              "kubeproxy_sync_proxy_rules_duration_seconds_count",
		"containerd":              "containerd_cri_",
		"the clients of the API":  "rest_client_requests_total",
		"the Go runtime":          "go_goroutines",
		"the process":             "process_resident_memory_bytes",
	} {
		if !regexp.MustCompile("(?m)^" + name).MatchString(out) {
			t.Errorf("%s: no %s in /metrics", component, name)
		}
	}
}
