package helm

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Chart is a HelmChart: a chart that the cluster shall have. Group, version and fields are those of k3s
// (github.com/k3s-io/helm-controller v0.17.9, pkg/apis/helm.cattle.io/v1/types.go), so that users' files work as they
// are; the status is our own.
type Chart struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   ChartSpec   `json:"spec"`
	Status ChartStatus `json:"status"`
}

// ChartSpec is what the user wants. Empty fields mean the default named at each.
type ChartSpec struct {
	// TargetNamespace is where the release goes; default: the HelmChart's own namespace.
	TargetNamespace string `json:"targetNamespace,omitempty"`
	// CreateNamespace makes the target namespace when it is not there.
	CreateNamespace bool `json:"createNamespace,omitempty"`

	// Chart is a name in Repo, an archive's URL (http, https), or a reference with oci://.
	Chart string `json:"chart,omitempty"`
	// Version is a version or a range of versions; default: the newest stable one. An archive has the one it has.
	Version string `json:"version,omitempty"`
	// Repo is the URL of a chart repository, or oci://.
	Repo string `json:"repo,omitempty"`
	// RepoCA are CAs to trust, in PEM; RepoCAConfigMap names a ConfigMap with more of them, under any key.
	RepoCA          string                       `json:"repoCA,omitempty"`
	RepoCAConfigMap *corev1.LocalObjectReference `json:"repoCAConfigMap,omitempty"`
	// ChartContent is an archive in base64; it takes the place of Chart, Version and Repo.
	ChartContent string `json:"chartContent,omitempty"`

	// Set, Values, ValuesContent and ValuesSecrets are the chart's values; see [mergeValues] for which one wins.
	Set           map[string]intstr.IntOrString `json:"set,omitempty"`
	Values        json.RawMessage               `json:"values,omitempty"`
	ValuesContent string                        `json:"valuesContent,omitempty"`
	ValuesSecrets []SecretKeys                  `json:"valuesSecrets,omitempty"`

	// TakeOwnership adopts objects that exist and belong to no release.
	TakeOwnership bool `json:"takeOwnership,omitempty"`
	// ServerSide is "true", "false" or "auto": whether objects are written with server-side apply. Default: true for an
	// installation, then as the release was installed.
	ServerSide string `json:"serverSide,omitempty"`
	// ForceConflicts takes fields over from other managers.
	ForceConflicts bool `json:"forceConflicts,omitempty"`
	// Timeout is how long Helm waits for one hook or for one object to go; default 5 minutes.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// FailurePolicy is what becomes of a release that failed: "reinstall" (default), "retry" or "abort".
	FailurePolicy string `json:"failurePolicy,omitempty"`
	// BackOffLimit is how often a failure is tried again before only a change of the HelmChart helps; default 1000.
	BackOffLimit *int32 `json:"backOffLimit,omitempty"`
	// Driver is where Helm keeps its releases: "secret" (default) or "configmap".
	Driver string `json:"driver,omitempty"`

	// AuthSecret names a Secret of type kubernetes.io/basic-auth for Repo.
	AuthSecret *corev1.LocalObjectReference `json:"authSecret,omitempty"`
	// AuthPassCredentials sends these credentials to whatever host the repository's index names.
	AuthPassCredentials bool `json:"authPassCredentials,omitempty"`
	// DockerRegistrySecret names a Secret of type kubernetes.io/dockerconfigjson for oci://.
	DockerRegistrySecret *corev1.LocalObjectReference `json:"dockerRegistrySecret,omitempty"`
	// InsecureSkipTLSVerify believes any certificate; PlainHTTP speaks HTTP to an oci:// registry.
	InsecureSkipTLSVerify bool `json:"insecureSkipTLSVerify,omitempty"`
	PlainHTTP             bool `json:"plainHTTP,omitempty"`

	// Bootstrap asks for an installation before the cluster has a network. No node is needed for any: it is always so.
	Bootstrap bool `json:"bootstrap,omitempty"`
	// The following are about k3s's Jobs, which do not exist here; the condition Ignored names those that are set.
	HelmVersion        string          `json:"helmVersion,omitempty"`
	JobImage           string          `json:"jobImage,omitempty"`
	PodSecurityContext json.RawMessage `json:"podSecurityContext,omitempty"`
	SecurityContext    json.RawMessage `json:"securityContext,omitempty"`
}

// SecretKeys are keys of a Secret in the HelmChart's namespace, each with values in YAML. Without keys it is not used.
type SecretKeys struct {
	Name string   `json:"name,omitempty"`
	Keys []string `json:"keys,omitempty"`
	// IgnoreUpdates makes the Secret optional, and its changes wait for another reason to upgrade.
	IgnoreUpdates bool `json:"ignoreUpdates,omitempty"`
}

// ChartConfig is a HelmChartConfig: additions to the HelmChart of the same name and namespace, which somebody else made.
type ChartConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec ConfigSpec `json:"spec"`
}

// ConfigSpec has the fields of [ChartSpec] that can be overridden.
type ConfigSpec struct {
	Values         json.RawMessage `json:"values,omitempty"`
	ValuesContent  string          `json:"valuesContent,omitempty"`
	ValuesSecrets  []SecretKeys    `json:"valuesSecrets,omitempty"`
	FailurePolicy  string          `json:"failurePolicy,omitempty"`
	ServerSide     string          `json:"serverSide,omitempty"`
	ForceConflicts *bool           `json:"forceConflicts,omitempty"`
}

// ChartStatus is what came of it.
type ChartStatus struct {
	// JobName is k3s's and always empty.
	JobName string `json:"jobName,omitempty"`
	// ObservedGeneration is the metadata.generation that the rest is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Namespace is where the release is.
	Namespace string `json:"namespace,omitempty"`
	// Revision, Release ("deployed", "failed", ...), ChartVersion and AppVersion are of the newest revision.
	Revision     int    `json:"revision,omitempty"`
	Release      string `json:"release,omitempty"`
	ChartVersion string `json:"chartVersion,omitempty"`
	AppVersion   string `json:"appVersion,omitempty"`
	// LastError is what went wrong at the last attempt; empty after one that succeeded.
	LastError string `json:"lastError,omitempty"`
	// Failures counts the attempts in a row that failed.
	Failures int32 `json:"failures,omitempty"`

	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// The conditions. Failed is k3s's, too.
const (
	// ConditionReady is true while the release is deployed as the HelmChart wants it.
	ConditionReady = "Ready"
	// ConditionFailed is true when the last attempt failed.
	ConditionFailed = "Failed"
	// ConditionIgnored is true when fields are set that have no effect; it is absent otherwise.
	ConditionIgnored = "Ignored"
)

// The values of failurePolicy.
const (
	policyReinstall = "reinstall"
	policyRetry     = "retry"
	policyAbort     = "abort"
)

// decodeObject reads what an informer has into out, a *[Chart] or a *[ChartConfig].
func decodeObject(obj runtime.Object, out any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("decode an object: it is a %T", obj)
	}
	text, err := u.MarshalJSON()
	if err != nil {
		return fmt.Errorf("encode %s %s/%s: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return permanent{fmt.Errorf("decode %s %s/%s: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)}
	}
	return nil
}
