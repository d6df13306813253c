package globals

import (
	"log/slog"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// noise is a warning or an error that upstream logs while nothing is wrong. It is
// Info here. An entry says as much of the record as it takes to let the same words
// through when something is wrong.
type noise struct {
	component string
	message   string // how it begins
	err       string // what its error contains, or the message where that holds it; "" for any
	early     bool   // harmless only in the first minute of the process
	where     string // the upstream file:line that logs it
	why       string // it is harmless
}

// harmless are records of healthy boots and stops. Each was seen.
var harmless = []noise{
	{component: "kube-apiserver", message: "The manifest file is empty",
		where: manifestFile,
		why:   noManifest},
	{component: "kube-scheduler", message: "The manifest file is empty",
		where: manifestFile,
		why:   noManifest},
	{component: "kube-controller-manager", message: "The manifest file is empty",
		where: manifestFile,
		why:   noManifest},
	{component: "kube-apiserver", message: "Skipping API ",
		where: "k8s.io/apiserver/pkg/server/genericapiserver.go:798",
		why:   "API versions without resources are the rule: beta and alpha ones are off by default"},
	{component: "kube-apiserver", message: "Resetting endpoints for master service",
		where: "k8s.io/kubernetes/pkg/controlplane/reconcilers/lease.go:270",
		why:   "every start and every stop of an API server changes them"},
	{component: "kube-apiserver", message: "Found stale data, removed previous endpoints on kubernetes service",
		where: "k8s.io/kubernetes/pkg/controlplane/controller/kubernetesservice/controller.go:95",
		why:   "an API server that is alone (endpoint-reconciler-type=master-count) says it at its first start, too"},
	{component: "upstream", message: "Failed to ensure lease exists, will retry",
		err: `namespaces "kube-system" not found`, early: true,
		where: "k8s.io/component-helpers/apimachinery/lease/controller.go:208",
		why:   "kube-apiserver makes the namespace a moment later"},
	{component: "kube-apiserver", message: "retrying of unary invoker failed",
		err: "client connection is closing", early: true,
		where: "go.etcd.io/etcd/client/v3/retry_interceptor.go:69",
		why:   "a storage that was made and dropped at once (an API version without resources) had begun to count its keys (registry/generic/registry/store.go:1722)"},
	{component: "kube-apiserver", message: "Error while syncing ConfigMap",
		err: `namespaces "kube-system" not found`, early: true,
		where: "k8s.io/kubernetes/pkg/controlplane/controller/legacytokentracking/controller.go:156",
		why:   "kube-apiserver makes the namespace a moment later"},
	{component: "kube-apiserver", message: "Unhandled Error",
		err: "for Service default/kubernetes is not allocated; repairing", early: true,
		where: "k8s.io/apimachinery/pkg/util/runtime/runtime.go:203",
		why:   "the first look at the Service kube-apiserver made a moment ago"},
	{component: "kube-apiserver", message: "Failed to shutdown server",
		err:   "context deadline exceeded",
		where: "k8s.io/apiserver/pkg/server/secure_serving.go:243",
		why:   "it is done when the requests are; watches never end by themselves"},
	{component: "kube-controller-manager", message: "Failed to update node PodCIDR after multiple attempts",
		err: "may specify no more than one CIDR", early: true,
		where: "k8s.io/kubernetes/pkg/controller/nodeipam/ipam/range_allocator.go:438",
		why:   twoEvents},
	{component: "kube-controller-manager", message: "CIDR assignment for node failed. Releasing allocated CIDR",
		err: "may specify no more than one CIDR", early: true,
		where: "k8s.io/kubernetes/pkg/controller/nodeipam/ipam/range_allocator.go:444",
		why:   twoEvents},
	{component: "kube-controller-manager", message: "Error processing node work item",
		err: "may specify no more than one CIDR", early: true,
		where: "k8s.io/kubernetes/pkg/controller/nodeipam/ipam/range_allocator.go:257",
		why:   twoEvents},
	{component: "kube-apiserver", message: "Unhandled Error",
		err:   "failed to create typed patch object",
		where: "k8s.io/apimachinery/pkg/util/runtime/runtime.go:203",
		why:   "a server-side apply (apiserver pkg/endpoints/handlers/responsewriters/status.go:71) with a misspelt field; who has sent it is told, for a manifest in its Addon"},
	{component: "kube-controller-manager", message: "Unhandled Error",
		err:   "is not as new as written version",
		where: "k8s.io/apimachinery/pkg/util/runtime/runtime.go:203",
		why:   "a controller's cache is a moment behind its own write; it waits and comes back"},

	{component: "containerd", message: "failed check for fsverity support",
		where: "github.com/containerd/containerd/v2/plugins/content/local/store.go:99",
		why:   "few file systems have it, and nothing depends on it"},
	{component: "containerd", message: "failed to load cni during init",
		err: "no network config found", early: true,
		where: "github.com/containerd/containerd/v2/internal/cri/server/cni_conf_syncer.go:73",
		why:   "flannel writes the configuration once the node has its pod range; until then the Node says NetworkPluginNotReady"},
	{component: "containerd", message: "failed to reload cni configuration after receiving fs change event",
		err:   "no network config found",
		where: "github.com/containerd/containerd/v2/internal/cri/server/cni_conf_syncer.go:108",
		why:   "it sees the temporary file that is renamed next"},
	{component: "containerd", message: "Failed to sync snapshot stats",
		err:   "database not open",
		where: "github.com/containerd/containerd/v2/internal/cri/server/images/snapshots.go:66",
		why:   "a stop closes the database under its last reader"},
	{component: "containerd", message: "reconcile",
		err:   "database not open",
		where: "github.com/containerd/containerd/v2/plugins/restart/monitor.go:136",
		why:   "a stop closes the database under its last reader"},

	{component: "kubelet", message: "Image garbage collection failed once",
		where: "k8s.io/kubernetes/pkg/kubelet/kubelet.go:1754",
		why:   "there are no statistics yet; a second failure is logged in other words"},
	{component: "kubelet", message: "Failed to read data from checkpoint",
		err:   "checkpoint is not found",
		where: "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/manager.go:550",
		why:   "there is none without device plugins"},
	{component: "kubelet", message: "Skipping pod synchronization",
		err: "pleg has yet to be successful", early: true,
		where: "k8s.io/kubernetes/pkg/kubelet/kubelet.go:2697",
		why:   "the first look at the containers is still to come"},
	{component: "kubelet", message: "Skipping pod synchronization",
		err: "container runtime status check may not have completed yet", early: true,
		where: "k8s.io/kubernetes/pkg/kubelet/kubelet.go:2697",
		why:   "the first look at the runtime is still to come"},
	{component: "kubelet", message: "eviction manager: failed to check if we have separate container filesystem",
		err:   "no imagefs label",
		where: "k8s.io/kubernetes/pkg/kubelet/eviction/eviction_manager.go:280",
		why:   "containers have no file system of their own, as nearly everywhere; it says itself that it ignores that"},
	{component: "kubelet", message: "Unable to register mirror pod",
		err: "not found", early: true,
		where: "k8s.io/kubernetes/pkg/kubelet/kubelet.go:3596",
		why:   newNode},
	{component: "kubelet", message: "Failed to get node when trying to set owner ref",
		err: "not found", early: true,
		where: "k8s.io/kubernetes/pkg/kubelet/util/nodelease.go:50",
		why:   newNode},
	{component: "kubelet", message: "Eviction manager: failed to get summary stats",
		err: "not found", early: true,
		where: "k8s.io/kubernetes/pkg/kubelet/eviction/eviction_manager.go:305",
		why:   newNode},
	{component: "kubelet", message: "Error updating node status, will retry",
		err: "not found", early: true,
		where: "k8s.io/kubernetes/pkg/kubelet/kubelet_node_status.go:479",
		why:   newNode},
	{component: "kubelet", message: "Error getting the current node from lister",
		err: "not found", early: true,
		where: "k8s.io/kubernetes/pkg/kubelet/kubelet_node_status.go:396",
		why:   newNode},

	{component: "kube-proxy", message: "Failed to list existing sets",
		err: "no such file or directory", early: true,
		where: "k8s.io/kubernetes/pkg/proxy/nftables/proxier.go:1285",
		why:   "at the first start its table does not exist yet"},
}

const (
	manifestFile = "k8s.io/component-base/metrics/options.go:205"
	noManifest   = "it is about a flag that was not given, --allow-metric-labels-manifest"
	twoEvents    = "a new node's second event came before the first one's result was seen; its range stays as it is"
	newNode      = "the kubelet registers its Node a moment later; should that fail, it says so"
)

// endings end what was logged because somebody stopped waiting, or because the API of this process has stopped. Whoever
// had a reason to do so has logged it. In a stop the kubelet alone logs dozens.
var endings = []string{"context canceled", "kube-apiserver is not serving"}

// earlyFor is how long a boot may take.
const earlyFor = time.Minute

// levelOf is Info for warnings and errors that are harmless.
func (b bridge) levelOf(component string, r slog.Record) slog.Level {
	if r.Level < slog.LevelWarn {
		return r.Level
	}
	err := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" || a.Key == logrus.ErrorKey {
			err = a.Value.String()
		}
		return true
	})
	for _, end := range endings {
		if strings.HasSuffix(r.Message, end) || strings.HasSuffix(err, end) {
			return slog.LevelInfo
		}
	}
	early := r.Time.Sub(b.start) < earlyFor
	for _, n := range harmless {
		if n.component == component && strings.HasPrefix(r.Message, n.message) && (strings.Contains(err, n.err) || strings.Contains(r.Message, n.err)) && (early || !n.early) {
			return slog.LevelInfo
		}
	}
	return r.Level
}
