package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Node annotations, as flannel's own subnet manager has them (pkg/subnet/kube/annotations.go:27).
const (
	annotationType       = "flannel.alpha.coreos.com/backend-type"
	annotationData       = "flannel.alpha.coreos.com/backend-data"
	annotationDataV6     = "flannel.alpha.coreos.com/backend-v6-data"
	annotationPublicIP   = "flannel.alpha.coreos.com/public-ip"
	annotationPublicIPv6 = "flannel.alpha.coreos.com/public-ipv6"
	annotationManaged    = "flannel.alpha.coreos.com/kube-subnet-manager"
	// annotationOverwrite and its v6 twin are the user's: the address that other nodes shall use.
	annotationOverwrite   = "flannel.alpha.coreos.com/public-ip-overwrite"
	annotationOverwriteV6 = "flannel.alpha.coreos.com/public-ipv6-overwrite"
)

// leaseLife is the life that flannel gives a lease of a Kubernetes node. Nothing renews it: the Node object is the
// lease.
const leaseLife = 24 * time.Hour

// subnets is flannel's subnet.Manager over Node objects: a node's lease is its pod CIDR, and its annotations are what
// other nodes need to reach it. Flannel's own (pkg/subnet/kube) reads its configuration from files and environment,
// makes its own client, and finds changes by polling every one to three seconds; this one is given a client and an
// informer that the process already has.
type subnets struct {
	nodeName string
	network  *subnet.Config
	client   kubernetes.Interface
	nodes    cache.SharedIndexInformer
	// public are the addresses that other nodes are told in place of the backend's.
	public []netip.Addr
}

var _ subnet.Manager = (*subnets)(nil)

var errNotForNodes = errors.New("leases of Kubernetes nodes are neither renewed nor watched one by one")

func (s *subnets) Name() string { return "nodes" }

func (s *subnets) GetNetworkConfig(context.Context) (*subnet.Config, error) { return s.network, nil }

// HandleSubnetFile has nothing to do: flannel's CNI plugin, which reads that file, is not used.
func (*subnets) HandleSubnetFile(string, *subnet.Config, bool, ip.IP4Net, ip.IP6Net, int) error {
	return nil
}

func (*subnets) RenewLease(context.Context, *lease.Lease) error { return errNotForNodes }

func (*subnets) WatchLease(context.Context, ip.IP4Net, ip.IP6Net, chan []lease.LeaseWatchResult) error {
	return errNotForNodes
}

func (*subnets) CompleteLease(context.Context, *lease.Lease, *sync.WaitGroup) error { return nil }

// own is this node's object, which exists: the caller waited for it.
func (s *subnets) own() (*corev1.Node, error) {
	obj, ok, err := s.nodes.GetStore().GetByKey(s.nodeName)
	if err != nil {
		return nil, fmt.Errorf("look up node %s: %w", s.nodeName, err)
	}
	if !ok {
		return nil, fmt.Errorf("node %s is not there", s.nodeName)
	}
	return obj.(*corev1.Node), nil
}

// AcquireLease publishes this node's backend data in its annotations and returns its pod networks.
func (s *subnets) AcquireLease(ctx context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	node, err := s.own()
	if err != nil {
		return nil, err
	}
	want := map[string]string{annotationType: attrs.BackendType, annotationManaged: "true"}
	if s.network.EnableIPv4 {
		want[annotationPublicIP] = s.override(node, annotationOverwrite, false, attrs.PublicIP.String())
		want[annotationData] = rawOrNull(attrs.BackendData)
	}
	if s.network.EnableIPv6 && attrs.PublicIPv6 != nil {
		want[annotationPublicIPv6] = s.override(node, annotationOverwriteV6, true, attrs.PublicIPv6.String())
		want[annotationDataV6] = rawOrNull(attrs.BackendV6Data)
	}
	if err := s.annotate(ctx, node, want); err != nil {
		return nil, err
	}
	l := &lease.Lease{Attrs: *attrs, Expiration: time.Now().Add(leaseLife)}
	if err := fillSubnets(l, node, s.network.EnableIPv4, s.network.EnableIPv6); err != nil {
		return nil, err
	}
	if s.network.EnableIPv4 && !l.EnableIPv4 || s.network.EnableIPv6 && !l.EnableIPv6 {
		return nil, fmt.Errorf("node %s has pod CIDRs %v, which lack a family of the cluster's", node.Name, node.Spec.PodCIDRs)
	}
	return l, nil
}

// override is the address of one family that other nodes are told: the annotation's, the configuration's, the backend's.
func (s *subnets) override(node *corev1.Node, key string, six bool, otherwise string) string {
	if v := node.Annotations[key]; v != "" {
		return v
	}
	for _, a := range s.public {
		if a.Is6() == six {
			return a.String()
		}
	}
	return otherwise
}

func rawOrNull(data json.RawMessage) string {
	if data == nil {
		return "null"
	}
	return string(data)
}

func (s *subnets) annotate(ctx context.Context, node *corev1.Node, want map[string]string) error {
	missing := map[string]string{}
	for k, v := range want {
		if node.Annotations[k] != v {
			missing[k] = v
		}
	}
	if len(missing) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": missing}})
	if err != nil {
		return fmt.Errorf("encode flannel annotations: %w", err)
	}
	_, err = s.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("publish flannel's backend data on node %s: %w", node.Name, err)
	}
	return nil
}

// fillSubnets sets the lease's networks of some families from the node's pod CIDRs.
func fillSubnets(l *lease.Lease, node *corev1.Node, v4, v6 bool) error {
	cidrs, err := podCIDRs(node)
	if err != nil {
		return err
	}
	for _, p := range cidrs {
		switch {
		case p.Addr().Is4() && v4:
			l.EnableIPv4, l.Subnet = true, ip.FromIPNet(ipNet(p))
		case p.Addr().Is6() && v6:
			l.EnableIPv6, l.IPv6Subnet = true, ip.FromIP6Net(ipNet(p))
		}
	}
	return nil
}

func podCIDRs(node *corev1.Node) ([]netip.Prefix, error) {
	var cidrs []netip.Prefix
	for _, s := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("parse pod CIDR of node %s: %w", node.Name, err)
		}
		cidrs = append(cidrs, p)
	}
	return cidrs, nil
}

// WatchLeases sends the other nodes' leases as they come, change and go, until ctx ends. The informer's handler runs
// in its own goroutine, so a slow receiver holds up nobody else.
func (s *subnets) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	defer close(receiver)
	events := make(chan lease.Event)
	send := func(t lease.EventType, obj any) {
		if l, ok := s.leaseOf(obj); ok {
			select {
			case events <- lease.Event{Type: t, Lease: l}:
			case <-ctx.Done():
			}
		}
	}
	registration, err := s.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { send(lease.EventAdded, obj) },
		UpdateFunc: func(before, obj any) {
			old, _ := s.leaseOf(before)
			if l, ok := s.leaseOf(obj); ok && !sameLease(old, l) {
				send(lease.EventAdded, obj)
			}
		},
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			send(lease.EventRemoved, obj)
		},
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer func() { _ = s.nodes.RemoveEventHandler(registration) }() // fails only for a handler of another informer
	for {
		select {
		case e := <-events:
			select {
			case receiver <- []lease.LeaseWatchResult{{Events: []lease.Event{e}}}:
			case <-ctx.Done():
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leaseOf is the lease that a node publishes; false while it publishes none or an unreadable one. A node that has not yet
// followed its cluster to two families publishes one, and is reached by that.
func (s *subnets) leaseOf(obj any) (lease.Lease, bool) {
	node, ok := obj.(*corev1.Node)
	if !ok || node.Annotations[annotationManaged] != "true" {
		return lease.Lease{}, false
	}
	l := lease.Lease{Attrs: lease.LeaseAttrs{BackendType: node.Annotations[annotationType]}}
	v4, v6 := false, false
	if addr, err := ip.ParseIP4(node.Annotations[annotationPublicIP]); err == nil && s.network.EnableIPv4 {
		v4, l.Attrs.PublicIP, l.Attrs.BackendData = true, addr, json.RawMessage(node.Annotations[annotationData])
	}
	if addr, err := ip.ParseIP6(node.Annotations[annotationPublicIPv6]); err == nil && s.network.EnableIPv6 {
		v6, l.Attrs.PublicIPv6, l.Attrs.BackendV6Data = true, addr, json.RawMessage(node.Annotations[annotationDataV6])
	}
	err := fillSubnets(&l, node, v4, v6)
	return l, err == nil && (l.EnableIPv4 || l.EnableIPv6)
}

func sameLease(a, b lease.Lease) bool {
	v6 := func(p *ip.IP6) string {
		if p == nil {
			return ""
		}
		return p.String()
	}
	return a.EnableIPv4 == b.EnableIPv4 && a.EnableIPv6 == b.EnableIPv6 &&
		a.Subnet.String() == b.Subnet.String() && a.IPv6Subnet.String() == b.IPv6Subnet.String() &&
		a.Attrs.BackendType == b.Attrs.BackendType && a.Attrs.PublicIP == b.Attrs.PublicIP &&
		v6(a.Attrs.PublicIPv6) == v6(b.Attrs.PublicIPv6) &&
		string(a.Attrs.BackendData) == string(b.Attrs.BackendData) &&
		string(a.Attrs.BackendV6Data) == string(b.Attrs.BackendV6Data)
}

// GetStoredMacAddresses are those of the vxlan devices before a restart, so that other nodes need not relearn them.
func (s *subnets) GetStoredMacAddresses(context.Context) (v4, v6 string) {
	node, err := s.own()
	if err != nil {
		return "", "" // as when the node is new: a MAC address is made up
	}
	mac := func(key string) string {
		var data struct{ VtepMAC string }
		if json.Unmarshal([]byte(node.Annotations[key]), &data) != nil {
			return "" // not a vxlan node before
		}
		return data.VtepMAC
	}
	return mac(annotationData), mac(annotationDataV6)
}

// GetStoredPublicIP is empty: a node's address is found anew at each start, so that it is followed when it changes.
func (*subnets) GetStoredPublicIP(context.Context) (v4, v6 string) { return "", "" }

// networkAvailable clears the condition that keeps pods off a node without network.
func networkAvailable(ctx context.Context, client kubernetes.Interface, nodeName string) error {
	now := metav1.Now()
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
		Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "FlannelIsUp",
		Message: "Flannel is running on this node", LastTransitionTime: now, LastHeartbeatTime: now,
	}}}})
	if err != nil {
		return fmt.Errorf("encode network condition: %w", err)
	}
	_, err = client.CoreV1().Nodes().PatchStatus(ctx, nodeName, patch)
	if err != nil && !meta.IsNoMatchError(err) {
		return fmt.Errorf("set NetworkUnavailable=False on node %s: %w", nodeName, err)
	}
	return nil
}
