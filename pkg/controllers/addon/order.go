package addon

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ranks is the order in which kinds are applied; what is in none is in workloads or, of other groups than Kubernetes'
// own, in custom. Removal is in reverse: what may refuse or delay others goes first, what others live in goes last.
var ranks = [...][]string{
	{"Namespace"},
	{"CustomResourceDefinition.apiextensions.k8s.io"},
	{"PriorityClass.scheduling.k8s.io", "RuntimeClass.node.k8s.io", "StorageClass.storage.k8s.io", "IngressClass.networking.k8s.io",
		"ResourceQuota", "LimitRange", "ServiceAccount", "Secret", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim",
		"ClusterRole.rbac.authorization.k8s.io", "ClusterRoleBinding.rbac.authorization.k8s.io", "Role.rbac.authorization.k8s.io",
		"RoleBinding.rbac.authorization.k8s.io", "NetworkPolicy.networking.k8s.io"},
	{"Service"},
	workloads: nil,
	custom:    nil,
	{"ValidatingWebhookConfiguration.admissionregistration.k8s.io", "MutatingWebhookConfiguration.admissionregistration.k8s.io",
		"ValidatingAdmissionPolicy.admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io",
		"APIService.apiregistration.k8s.io"},
}

const (
	workloads = 4
	custom    = 5
)

// global are Kubernetes' own kinds that have no namespace. Many files give them one all the same, which counts for nothing.
var global = [...]string{
	"Namespace", "Node", "PersistentVolume", "CustomResourceDefinition.apiextensions.k8s.io", "APIService.apiregistration.k8s.io",
	"ClusterRole.rbac.authorization.k8s.io", "ClusterRoleBinding.rbac.authorization.k8s.io", "PriorityClass.scheduling.k8s.io",
	"RuntimeClass.node.k8s.io", "StorageClass.storage.k8s.io", "CSIDriver.storage.k8s.io", "IngressClass.networking.k8s.io",
	"ValidatingWebhookConfiguration.admissionregistration.k8s.io", "MutatingWebhookConfiguration.admissionregistration.k8s.io",
	"ValidatingAdmissionPolicy.admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io",
}

// rank is a kind's place in the order.
func rank(k schema.GroupKind) int {
	for i, kinds := range ranks {
		if slices.Contains(kinds, k.String()) {
			return i
		}
	}
	if k.Group == "" || !strings.Contains(k.Group, ".") || strings.HasSuffix(k.Group, ".k8s.io") {
		return workloads
	}
	return custom
}

func (o object) rank() int { return rank(o.GroupVersionKind().GroupKind()) }

// arrange sorts objects into the order in which they are applied; within a rank they stay as the file has them.
func arrange(objects []object) []object {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b object) int { return a.rank() - b.rank() })
	return sorted
}

// kindsOf are the kinds of objects as spec.kinds has them.
func kindsOf(objects []object) []string {
	var names []string
	for _, o := range objects {
		names = append(names, kindName(o.GroupVersionKind()))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// union is what is in either, sorted.
func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}
