package metrics

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// usage is what a node or a container uses.
type usage struct {
	at    metav1.Time
	nanos uint64 // CPU, in billionths of a core
	bytes uint64 // memory, the working set
}

// measure is false while one of the figures is missing: right after a start.
func measure(cpu *stats.CPUStats, memory *stats.MemoryStats) (usage, bool) {
	if cpu == nil || memory == nil || cpu.UsageNanoCores == nil || memory.WorkingSetBytes == nil {
		return usage{}, false
	}
	at := cpu.Time
	if memory.Time.Before(&at) {
		at = memory.Time
	}
	return usage{at, *cpu.UsageNanoCores, *memory.WorkingSetBytes}, true
}

// list is in metrics-server's units (v0.9.0 pkg/storage/types.go).
func (u usage) list() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(u.nanos), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(u.bytes), resource.BinarySI),
	}
}
