// Package podrange gives the nodes of a cluster a network for pods of each family that the cluster has, when it got one
// later or lost one. kube-apiserver lets the pod networks of a Node be set once and never changed
// (k8s.io/kubernetes/pkg/apis/core/validation/validation.go, ValidateNodeUpdate), and kube-controller-manager sets them
// for new nodes only: elsewhere every node is deleted and registered anew, and loses its pods.
//
// [Extend] writes the Node objects in the datastore while the server's API is not up yet, each in one transaction that
// fails when somebody else wrote it meanwhile. It is not a controller, starts nothing, and touches nothing but
// spec.podCIDR and spec.podCIDRs.
package podrange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// Prefix is where kube-apiserver keeps Nodes, with its default --etcd-prefix.
const Prefix = "/registry/minions/"

// Range is one of the cluster's ranges for pods.
type Range struct {
	CIDR netip.Prefix
	// NodeBits is the length of a node's prefix in it.
	NodeBits int
}

// stored is a Node as it is in the datastore.
type stored struct {
	key      string
	revision int64
	node     *corev1.Node
	nets     []netip.Prefix
}

// attempts is how often a Node is read again because somebody else wrote it.
const attempts = 20

// Extend makes the pod networks of all Nodes those of ranges. A network that fits stays as it is.
func Extend(ctx context.Context, kv clientv3.KV, ranges []Range, log *slog.Logger) error {
	codec, err := newCodec()
	if err != nil {
		return err
	}
	for range attempts {
		nodes, err := read(ctx, kv, codec)
		if err != nil {
			return err
		}
		again, err := write(ctx, kv, codec, nodes, ranges, log)
		if err != nil || !again {
			return err
		}
	}
	return errors.New("give nodes their pod networks: others keep changing the nodes; start the server again")
}

// write writes the Nodes that are not as they should be; again: one was written by somebody else.
func write(ctx context.Context, kv clientv3.KV, codec runtime.Codec, nodes []stored, ranges []Range, log *slog.Logger) (again bool, err error) {
	used := map[netip.Prefix]bool{}
	for _, n := range nodes {
		for _, p := range n.nets {
			used[p] = true
		}
	}
	for _, n := range nodes {
		if len(n.nets) == 0 {
			continue // new: kube-controller-manager gives it all
		}
		want, err := assign(n.node.Name, n.nets, ranges, used)
		if err != nil {
			return false, err
		}
		if equal(want, n.nets) {
			continue
		}
		n.node.Spec.PodCIDR, n.node.Spec.PodCIDRs = want[0].String(), nil
		for _, p := range want {
			n.node.Spec.PodCIDRs = append(n.node.Spec.PodCIDRs, p.String())
		}
		value, err := runtime.Encode(codec, n.node)
		if err != nil {
			return false, fmt.Errorf("encode node %s: %w", n.node.Name, err)
		}
		done, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(n.key), "=", n.revision)).
			Then(clientv3.OpPut(n.key, string(value))).Else(clientv3.OpGet(n.key)).Commit()
		if err != nil {
			return false, fmt.Errorf("write the pod networks of node %s: %w", n.node.Name, err)
		}
		if !done.Succeeded {
			again = true
			continue
		}
		log.Info("the pod networks of a node follow the cluster's", "node", n.node.Name, "were", n.nets, "are", want)
	}
	return again, nil
}

// assign chooses one network of each range for a node: the one that it has, else the one with the same number as its
// network of the other family, so that they are told apart easily, else the first that is free, which it then marks.
func assign(node string, have []netip.Prefix, ranges []Range, used map[netip.Prefix]bool) ([]netip.Prefix, error) {
	var want []netip.Prefix
	preferred := uint64(0)
	for _, r := range ranges {
		for _, p := range have {
			if r.CIDR.Contains(p.Addr()) {
				preferred = number(p, r)
			} else if p.Addr().Is6() == r.CIDR.Addr().Is6() {
				return nil, fmt.Errorf("node %s has the pod network %s, which is not in --cluster-cidr %s: the range of a family cannot be changed while a node and its pods have addresses of it; "+
					"give the range that it was, or delete the nodes (kubectl delete node) before", node, p, r.CIDR)
			}
		}
	}
	for _, r := range ranges {
		p, err := choose(have, r, preferred, used)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", node, err)
		}
		used[p] = true
		want = append(want, p)
	}
	return want, nil
}

func choose(have []netip.Prefix, r Range, preferred uint64, used map[netip.Prefix]bool) (netip.Prefix, error) {
	for _, p := range have {
		if r.CIDR.Contains(p.Addr()) {
			return p, nil
		}
	}
	count := uint64(1) << (r.NodeBits - r.CIDR.Bits())
	if p := numbered(r, preferred); preferred < count && !used[p] {
		return p, nil
	}
	for i := range count {
		if p := numbered(r, i); !used[p] {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("--cluster-cidr %s has no network left: it is for %d nodes", r.CIDR, count)
}

// numbered is the network with the number i in r, which is less than 2^32.
func numbered(r Range, i uint64) netip.Prefix {
	addr := r.CIDR.Masked().Addr()
	raw := addr.AsSlice()
	for bit := range 32 {
		if at := r.NodeBits - 1 - bit; i>>bit&1 == 1 && at >= 0 {
			raw[at/8] |= 1 << (7 - at%8)
		}
	}
	addr, _ = netip.AddrFromSlice(raw) // as long as it was
	return netip.PrefixFrom(addr, r.NodeBits)
}

// number is the inverse of numbered.
func number(p netip.Prefix, r Range) (i uint64) {
	raw := p.Addr().AsSlice()
	for at := r.CIDR.Bits(); at < r.NodeBits; at++ {
		i = i<<1 | uint64(raw[at/8]>>(7-at%8)&1)
	}
	return i
}

func equal(a, b []netip.Prefix) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// newCodec reads and writes Nodes as kube-apiserver does.
func newCodec() (runtime.Codec, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register Kubernetes' types: %w", err)
	}
	codecs := serializer.NewCodecFactory(scheme)
	raw := protobuf.NewSerializer(scheme, scheme)
	return codecs.CodecForVersions(raw, codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion), nil
}

func read(ctx context.Context, kv clientv3.KV, codec runtime.Codec) ([]stored, error) {
	reply, err := kv.Get(ctx, Prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read the nodes' pod networks: %w", err)
	}
	var nodes []stored
	for _, item := range reply.Kvs {
		name := strings.TrimPrefix(string(item.Key), Prefix)
		if bytes.HasPrefix(item.Value, []byte("k8s:enc:")) {
			return nil, fmt.Errorf("read node %s: nodes are encrypted in the datastore, so their pod networks cannot follow --cluster-cidr; leave nodes out of the encryption", name)
		}
		object, err := runtime.Decode(codec, item.Value)
		if err != nil {
			return nil, fmt.Errorf("read node %s: %w", name, err)
		}
		node, ok := object.(*corev1.Node)
		if !ok {
			return nil, fmt.Errorf("read node %s: it is a %T", name, object)
		}
		s := stored{key: string(item.Key), revision: item.ModRevision, node: node}
		for _, text := range node.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("read the pod networks of node %s: %w", name, err)
			}
			s.nets = append(s.nets, p)
		}
		nodes = append(nodes, s)
	}
	return nodes, nil
}
