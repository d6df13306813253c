package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/controllers/leader"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/vip"
)

// virtualTerms are short, since clients wait. The address ends by itself before another server may take it: one that is
// killed has it for virtualLifetime at most, and its lease for longer.
func virtualTerms() leader.Terms {
	return leader.Terms{Hold: 4 * time.Second, Renew: 3 * time.Second, Retry: time.Second}
}

const virtualLifetime = 3 * time.Second

// virtualIP is what has one of the servers hold the virtual address, on a lease of its own: it need not be the one whose
// control loops run, and must not wait as long as these.
func (p Plan) virtualIP(s agent.Shared, log *slog.Logger) *leader.Elector {
	holder := vip.New(vip.Config{
		Address: p.Listener.VirtualIP, Neighbour: p.neighbour(p.Listener.VirtualIP), Lifetime: virtualLifetime,
	}, log)
	return leader.New(leader.Config{
		Name: "virtual-address-election", Lease: "knarr-virtual-address", Identity: p.NodeName, Terms: virtualTerms(),
	}, s.Client, func(g *lifecycle.Group) error {
		g.Add(holder)
		return nil
	}, log)
}

// neighbour is this server's own address of the family of a; the zero value if it has none.
func (p Plan) neighbour(a netip.Addr) netip.Addr {
	for _, own := range p.nodeIPs() {
		if own.Is6() == a.Is6() {
			return own
		}
	}
	return netip.Addr{}
}

// checkVirtualIP refuses a virtual address that cannot be.
func (p Plan) checkVirtualIP() error {
	a := p.Listener.VirtualIP
	switch {
	case !a.IsValid():
		return nil
	case !p.several() && !p.joins():
		return errors.New("--virtual-ip is for several servers, and the datastore is for one: give --cluster-init or --datastore-endpoint as well, or remove it")
	case !p.neighbour(a).IsValid():
		return fmt.Errorf("--virtual-ip %s: this server has no address of that IP family beside it", a)
	case p.neighbour(a) == a:
		return fmt.Errorf("--virtual-ip %s is this server's own address: give one that no machine has", a)
	}
	return nil
}
