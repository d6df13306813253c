package server

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/knarr-io/knarr/manifests"
	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/controllers/addon"
	"github.com/knarr-io/knarr/pkg/controllers/ingress"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/upstream/apiserver"
	"github.com/knarr-io/knarr/pkg/version"
)

// addons makes the component that applies manifests. It has a client of its own: what it reads, nobody else does.
func (p Plan) addons(kube *apiserver.Component, log *slog.Logger) *addon.Controller {
	config := func() *rest.Config { return kube.ClientConfig("system:knarr-controller", user.SystemPrivilegedGroup) }
	return addon.New(p.addonConfig(), addon.API{
		Config: config,
		Client: func() (kubernetes.Interface, error) { return kubernetes.NewForConfig(config()) },
	}, log)
}

// ingress makes the component that has the ingress controller's objects there while they are wanted.
func (p Plan) ingress(kube *apiserver.Component, addons *addon.Controller, log *slog.Logger) *ingress.Controller {
	return ingress.New(ingress.Config{
		AlwaysOn:  slices.Contains(p.Components.AlwaysOn.Slice(), "traefik"),
		RestAfter: p.Components.RestAfter,
	}, ingress.API{
		Config: func() *rest.Config { return kube.ClientConfig("system:knarr-controller", user.SystemPrivilegedGroup) },
	}, func(on bool) { addons.Switch("traefik", on) }, log)
}

// withdrawal takes back what the ingress controller of an earlier start has left in Ingresses.
func withdrawal(shared agent.Shared) lifecycle.Component {
	return lifecycle.Func("ingress-withdrawal", func(ctx context.Context, ready func()) error {
		ready()
		client, err := shared.Client()
		if err != nil {
			return err
		}
		if err := ingress.Withdraw(ctx, client); err != nil && ctx.Err() == nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
}

func (p Plan) addonConfig() addon.Config {
	values := p.manifestValues()
	c := addon.Config{Dir: p.Dir.Manifests(), Server: p.NodeName, Disabled: p.Components.Disabled.Slice()}
	for _, path := range manifests.Files() {
		c.Packaged = append(c.Packaged, addon.Packaged{
			Path:      path,
			Component: manifests.Component(path),
			Read:      func() ([]byte, error) { return manifests.Read(path, values) },
		})
	}
	return c
}

// manifestValues are what bundled manifests may name.
func (p Plan) manifestValues() manifests.Values {
	dns := p.ClusterDNS().Slice()
	return manifests.Values{
		manifests.ClusterDNS:     first(dns),
		manifests.ClusterDNSList: "[" + strings.Join(texts(dns), ", ") + "]",
		manifests.ClusterDomain:  p.Network.Domain,
		manifests.BaseImage:      p.SystemImage(bundle.BaseImage),
		manifests.Version:        version.Version,
	}
}

func texts(ips []netip.Addr) []string {
	list := make([]string, len(ips))
	for i, ip := range ips {
		list[i] = ip.String()
	}
	return list
}

func first(ips []netip.Addr) string {
	if len(ips) == 0 {
		return ""
	}
	return ips[0].String()
}

// addons is what knarr status shows of the manifests.
func (p Parts) addons() *control.Addons {
	if p.Addons == nil {
		return nil
	}
	s := p.Addons.Summary()
	shown := &control.Addons{Total: s.Total}
	for _, t := range s.Trouble {
		shown.Trouble = append(shown.Trouble, control.Addon{Name: t.Name, State: string(t.State), Message: t.Message})
	}
	return shown
}
