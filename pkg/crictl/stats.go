package crictl

import (
	"context"
	"fmt"
	"sort"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StatsOptions choose and show usage.
type StatsOptions struct {
	Format string
	// ID and Pod are ids or beginnings of ids.
	ID, Pod string
	Labels  map[string]string
	NoTrunc bool
	// Over is the time over which processor use is measured.
	Over time.Duration
}

// Stats shows what containers use.
func (c *Client) Stats(ctx context.Context, o StatsOptions) error {
	list := func() ([]*runtimeapi.ContainerStats, error) {
		all, err := c.runtime.ListContainerStats(quiet(ctx), &runtimeapi.ContainerStatsFilter{Id: o.ID, PodSandboxId: o.Pod, LabelSelector: o.Labels})
		if err != nil {
			return nil, fmt.Errorf("ask what containers use: %w", plain(err))
		}
		return all, nil
	}
	before, after, err := sample(ctx, o, list)
	if err != nil {
		return err
	}
	if o.Format == JSON || o.Format == YAML {
		return c.message(&runtimeapi.ListContainerStatsResponse{Stats: after}, o.Format)
	}
	earlier := map[string]*runtimeapi.CpuUsage{}
	for _, s := range before {
		earlier[s.GetAttributes().GetId()] = s.GetCpu()
	}
	sort.Slice(after, func(i, j int) bool { return after[i].GetAttributes().GetId() < after[j].GetAttributes().GetId() })
	rows := [][]string{{"CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"}}
	for _, s := range after {
		id := s.GetAttributes().GetId()
		rows = append(rows, []string{
			short(id, o.NoTrunc), s.GetAttributes().GetMetadata().GetName(), percent(earlier[id], s.GetCpu()),
			size(s.GetMemory().GetWorkingSetBytes().GetValue()), size(s.GetWritableLayer().GetUsedBytes().GetValue()),
			fmt.Sprint(s.GetWritableLayer().GetInodesUsed().GetValue()),
		})
	}
	return c.table(rows)
}

// PodStats shows what pods use.
func (c *Client) PodStats(ctx context.Context, o StatsOptions) error {
	list := func() ([]*runtimeapi.PodSandboxStats, error) {
		all, err := c.runtime.ListPodSandboxStats(quiet(ctx), &runtimeapi.PodSandboxStatsFilter{Id: o.ID, LabelSelector: o.Labels})
		if err != nil {
			return nil, fmt.Errorf("ask what pods use: %w", plain(err))
		}
		return all, nil
	}
	before, after, err := sample(ctx, o, list)
	if err != nil {
		return err
	}
	if o.Format == JSON || o.Format == YAML {
		return c.message(&runtimeapi.ListPodSandboxStatsResponse{Stats: after}, o.Format)
	}
	earlier := map[string]*runtimeapi.CpuUsage{}
	for _, s := range before {
		earlier[s.GetAttributes().GetId()] = s.GetLinux().GetCpu()
	}
	sort.Slice(after, func(i, j int) bool { return after[i].GetAttributes().GetId() < after[j].GetAttributes().GetId() })
	rows := [][]string{{"POD", "POD ID", "NAMESPACE", "CPU %", "MEM", "RECEIVED", "SENT"}}
	for _, s := range after {
		id, network := s.GetAttributes().GetId(), s.GetLinux().GetNetwork().GetDefaultInterface()
		rows = append(rows, []string{
			s.GetAttributes().GetMetadata().GetName(), short(id, o.NoTrunc), s.GetAttributes().GetMetadata().GetNamespace(),
			percent(earlier[id], s.GetLinux().GetCpu()), size(s.GetLinux().GetMemory().GetWorkingSetBytes().GetValue()),
			size(network.GetRxBytes().GetValue()), size(network.GetTxBytes().GetValue()),
		})
	}
	return c.table(rows)
}

// sample lists twice, o.Over apart; with JSON and YAML, which show counters, once.
func sample[T any](ctx context.Context, o StatsOptions, list func() ([]T, error)) (before, after []T, err error) {
	if o.Format == JSON || o.Format == YAML {
		after, err = list()
		return nil, after, err
	}
	if before, err = list(); err != nil {
		return nil, nil, err
	}
	wait := time.NewTimer(o.Over)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("measure processor use: %w", ctx.Err())
	case <-wait.C:
	}
	after, err = list()
	return before, after, err
}

// percent is the use of one processor between two samples; what appeared between
// them has none.
func percent(before, after *runtimeapi.CpuUsage) string {
	elapsed := after.GetTimestamp() - before.GetTimestamp()
	used := int64(after.GetUsageCoreNanoSeconds().GetValue() - before.GetUsageCoreNanoSeconds().GetValue())
	if before == nil || elapsed <= 0 || used < 0 {
		return "0.00"
	}
	return fmt.Sprintf("%.2f", 100*float64(used)/float64(elapsed))
}
