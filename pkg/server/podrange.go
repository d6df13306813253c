package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/podrange"
)

// podRanges puts right in the datastore, before the API is there, what it does not put right itself: the nodes' pod
// networks follow the cluster's, and former addresses of the API are forgotten.
func (p Plan) podRanges(store *datastore.Component, log *slog.Logger) lifecycle.Component {
	return lifecycle.Func("pod-ranges", func(ctx context.Context, ready func()) error {
		ranges, err := p.nodeRanges()
		if err == nil && ranges != nil {
			err = extend(ctx, store, ranges, log)
		}
		if err == nil && p.Datastore.Embedded() && !p.hasEtcd() { // no other server has this datastore
			err = forget(ctx, store)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		ready()
		<-ctx.Done()
		return nil
	})
}

func extend(ctx context.Context, store *datastore.Component, ranges []podrange.Range, log *slog.Logger) (err error) {
	client, err := store.Client()
	if err != nil {
		return fmt.Errorf("reach the datastore: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return podrange.Extend(ctx, client, ranges, log)
}

// apiLeases is where kube-apiservers say at which address each serves; the endpoints of the Service "kubernetes" follow
// (k8s.io/kubernetes/pkg/controlplane/instance.go, createLeaseReconciler).
const apiLeases = "/registry/masterleases/"

// forget removes what says that the API is served somewhere. Without it, the address that this server had before, or had
// when it crashed, stays among the endpoints until it expires, and clients are sent there.
func forget(ctx context.Context, store *datastore.Component) (err error) {
	client, err := store.Client()
	if err != nil {
		return fmt.Errorf("reach the datastore: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	found, err := client.Get(ctx, apiLeases, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("look for former addresses of the API: %w", err)
	}
	for _, kv := range found.Kvs {
		key := string(kv.Key)
		_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
			Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return fmt.Errorf("remove a former address of the API: %w", err)
		}
	}
	return nil
}

// nodeRanges are the cluster's ranges with the size of a node's share, as kube-controller-manager has them
// (pkg/controller/nodeipam/config); nil when it does not share them out.
func (p Plan) nodeRanges() ([]podrange.Range, error) {
	bits := map[bool]int{false: 24, true: 64} // by whether it is IPv6
	for _, arg := range p.Args.ControllerManager.All() {
		key, value, _ := config.SplitArg(arg)
		n, err := strconv.Atoi(value)
		switch key {
		case "allocate-node-cidrs":
			if value == "false" {
				return nil, nil
			}
			continue
		case "node-cidr-mask-size":
			bits[p.Network.PrimaryIPv6()] = n
		case "node-cidr-mask-size-ipv4":
			bits[false] = n
		case "node-cidr-mask-size-ipv6":
			bits[true] = n
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("--kube-controller-manager-arg=%s: %w", arg, err)
		}
	}
	var ranges []podrange.Range
	for _, cidr := range p.Network.ClusterCIDRs.All() {
		ranges = append(ranges, podrange.Range{CIDR: cidr, NodeBits: bits[cidr.Addr().Is6()]})
	}
	return ranges, nil
}
