package globals

import (
	"runtime"
	"slices"
	"strings"

	"github.com/knarr-io/knarr/pkg/logging"
)

const componentKey = logging.ComponentKey

// own is the component of records that knarr's packages make through a library.
const own = "knarr"

// components says whose record it is by the package it comes from: upstream's
// loggers know files, not components. The longest prefix counts. Libraries that
// several components use go under their own names.
var components = []struct{ prefix, name string }{
	{"k8s.io/kubernetes/cmd/kube-apiserver/", "kube-apiserver"},
	{"k8s.io/kubernetes/pkg/controlplane/", "kube-apiserver"},
	{"k8s.io/kubernetes/pkg/kubeapiserver/", "kube-apiserver"},
	{"k8s.io/kubernetes/pkg/registry/", "kube-apiserver"},
	{"k8s.io/kubernetes/pkg/quota/", "kube-apiserver"},
	{"k8s.io/kubernetes/pkg/serviceaccount", "kube-apiserver"},
	{"k8s.io/kubernetes/plugin/", "kube-apiserver"},
	{"k8s.io/apiserver/", "kube-apiserver"},
	{"k8s.io/apiextensions-apiserver/", "kube-apiserver"},
	{"k8s.io/kube-aggregator/", "kube-apiserver"},
	{"k8s.io/kube-openapi/", "kube-apiserver"},
	{"go.etcd.io/etcd/client/", "kube-apiserver"},
	{"k8s.io/kubernetes/cmd/kube-scheduler/", "kube-scheduler"},
	{"k8s.io/kubernetes/pkg/scheduler", "kube-scheduler"},
	{"k8s.io/kube-scheduler/", "kube-scheduler"},
	{"k8s.io/kubernetes/cmd/kube-controller-manager/", "kube-controller-manager"},
	{"k8s.io/kubernetes/pkg/controller", "kube-controller-manager"},
	{"k8s.io/controller-manager/", "kube-controller-manager"},
	{"k8s.io/cloud-provider/", "cloud-controller-manager"},
	{"k8s.io/kubernetes/cmd/kubelet/", "kubelet"},
	{"k8s.io/kubernetes/pkg/kubelet", "kubelet"},
	{"k8s.io/kubernetes/pkg/volume", "kubelet"},
	{"k8s.io/kubernetes/pkg/credentialprovider", "kubelet"},
	{"k8s.io/kubernetes/pkg/probe", "kubelet"},
	{"k8s.io/kubernetes/pkg/util/oom", "kubelet"},
	{"k8s.io/cri-client/", "kubelet"},
	{"k8s.io/cri-streaming/", "kubelet"},
	{"k8s.io/mount-utils", "kubelet"},
	{"github.com/google/cadvisor/", "kubelet"},
	{"k8s.io/kubernetes/cmd/kube-proxy/", "kube-proxy"},
	{"k8s.io/kubernetes/pkg/proxy", "kube-proxy"},
	{"sigs.k8s.io/knftables", "kube-proxy"},
	{"github.com/containerd/", "containerd"},
	{"github.com/flannel-io/", "flannel"},
	{"github.com/k3s-io/kine/", "datastore"},
	{"github.com/k3s-io/helm-controller/", "helm-controller"},
	{"sigs.k8s.io/metrics-server/", "metrics-server"},
	{"go.etcd.io/etcd/", "etcd"},
	{"k8s.io/client-go/", "client-go"},
	{"google.golang.org/grpc", "grpc"},
	{"net/http.", "http"},
	{"github.com/knarr-io/knarr/pkg/upstream/scheduler", "kube-scheduler"},
	{"github.com/knarr-io/knarr/pkg/upstream/apiserver", "kube-apiserver"},
	{"github.com/knarr-io/knarr/pkg/upstream/controllermanager", "kube-controller-manager"},
	{"github.com/knarr-io/knarr/pkg/upstream/kubelet", "kubelet"},
	{"github.com/knarr-io/knarr/pkg/upstream/kubeproxy", "kube-proxy"},
	{"github.com/knarr-io/knarr/pkg/upstream/containerd", "containerd"},
	{"github.com/knarr-io/knarr/pkg/upstream/flannel", "flannel"},
	{"github.com/knarr-io/knarr/", own},
}

// componentOf finds the component that the innermost known frame belongs to.
// Frames of libraries that the table does not have (apimachinery, logging
// libraries) are passed over for those who called them.
func componentOf(pcs []uintptr) string {
	frames := runtime.CallersFrames(pcs)
	for {
		frame, more := frames.Next()
		if name := componentOfFunction(frame.Function); name != "" {
			return name
		}
		if !more {
			return "upstream"
		}
	}
}

// componentOfFunction is "" for what the table does not have.
func componentOfFunction(function string) string {
	name, longest := "", 0
	for _, c := range components {
		if len(c.prefix) > longest && strings.HasPrefix(function, c.prefix) {
			name, longest = c.name, len(c.prefix)
		}
	}
	return name
}

// callers returns the stack of its caller's caller without the innermost frames
// whose functions begin with one of libraries; at least one element.
func callers(libraries ...string) []uintptr {
	pcs := make([]uintptr, 32)
	pcs = pcs[:runtime.Callers(3, pcs)] // without Callers, callers and who called it
	for i := range pcs {
		frame, _ := runtime.CallersFrames(pcs[i : i+1]).Next()
		if !slices.ContainsFunc(libraries, func(l string) bool { return strings.HasPrefix(frame.Function, l) }) {
			return pcs[i:]
		}
	}
	return []uintptr{0}
}
