package csi

import (
	"context"
	"testing"

	"k8s.io/client-go/kubernetes/fake"
	upstream "k8s.io/kubernetes/pkg/volume/csi"
	volumetest "k8s.io/kubernetes/pkg/volume/testing"
)

// TestTheKubeletsStay makes upstream's plugin as the kubelet does and then as the controllers do, who take its globals.
func TestTheKubeletsStay(t *testing.T) {
	g := &Guard{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	host := volumetest.NewFakeVolumeHost(t, t.TempDir(), fake.NewClientset(), nil)
	plugins := g.Kubelet(ctx)
	if err := upstream.ProbeVolumePlugins()[0].Init(host); err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins {
		if err := p.Init(host); err != nil {
			t.Fatal(err)
		}
		if p.CanSupport(nil) || p.GetPluginName() == "" {
			t.Error("the plugin takes volumes, or has no name")
		}
	}
	own, handler := nim, *upstream.PluginHandler
	for range 2 { // terms
		g.Controllers(func() {
			if err := upstream.ProbeVolumePlugins()[0].Init(host); err != nil {
				t.Error(err)
			}
			if nim == own || *upstream.PluginHandler == handler {
				t.Error("upstream has changed: its globals are not taken any more")
			}
		})
		if nim != own || *upstream.PluginHandler != handler {
			t.Error("the kubelet has lost what is its own")
		}
	}
	var none *Guard
	none.Controllers(func() {})
	if none.Kubelet(ctx) != nil {
		t.Error("no guard has plugins")
	}
}
