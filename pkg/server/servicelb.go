package server

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/controllers/servicelb"
	"github.com/knarr-io/knarr/pkg/datastore/etcd"
	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// serviceLB is the service load balancer or, when it is disabled, what takes back the addresses that it gave before.
func (p Plan) serviceLB(s agent.Shared, log *slog.Logger) lifecycle.Component {
	if p.Components.Packaged("servicelb") {
		return servicelb.New(servicelb.Config{Reserved: p.reservedPorts()}, s.Client, s.Informers, log)
	}
	return lifecycle.Func("servicelb", func(ctx context.Context, ready func()) error {
		client, err := s.Client()
		if err != nil {
			return err
		}
		if err := servicelb.Release(ctx, client, log); err != nil && ctx.Err() == nil {
			return err
		}
		ready()
		<-ctx.Done()
		return nil
	})
}

// reservedPorts are those that knarr listens on at the addresses of its nodes, whether or not the node at hand does so
// now: a Service that took one would cut the cluster's own connections.
func (p Plan) reservedPorts() map[servicelb.Port]string {
	tcp := func(n int32) servicelb.Port { return servicelb.Port{Protocol: corev1.ProtocolTCP, Number: n} }
	udp := func(n int32) servicelb.Port { return servicelb.Port{Protocol: corev1.ProtocolUDP, Number: n} }
	ports := map[servicelb.Port]string{
		tcp(int32(p.Listener.Port)): "knarr's, for the API (--https-listen-port)",
		tcp(10250):                  "knarr's, for the kubelet",
		tcp(10256):                  "knarr's, for the health of kube-proxy",
	}
	if p.hasEtcd() {
		ports[tcp(etcd.ClientPort)] = "knarr's, for the datastore's clients"
		ports[tcp(etcd.PeerPort)] = "knarr's, for the datastore's members"
		if p.Datastore.ExposeMetrics {
			ports[tcp(etcd.MetricsPort)] = "knarr's, for the datastore's metrics (--etcd-expose-metrics)"
		}
	}
	switch p.Network.FlannelBackend {
	case config.FlannelVXLAN:
		ports[udp(8472)] = "knarr's, for the pod network (VXLAN)"
	case config.FlannelWireGuard:
		ports[udp(51820)] = "knarr's, for the pod network (WireGuard)"
		ports[udp(51821)] = "knarr's, for the pod network (WireGuard, IPv6)"
	}
	return ports
}
