// Package csi keeps what upstream's CSI volume plugin has one of in a process: who looks after the node's CSINode object,
// and the plugin that drivers register with (kubernetes v1.37.1 pkg/volume/csi/csi_plugin.go:95 and :101). The plugin is
// made twice, by the kubelet and by kube-controller-manager's attach-detach controller, and the last to be made takes both
// (csi_plugin.go:350). They have to be the kubelet's: the controller has no node, so no driver could register any more, and
// a kubelet that had not begun yet would end the process after two minutes. With several servers the controllers start
// long after the kubelet, when they come to lead.
//
// It runs nothing.
package csi

import (
	"context"
	"sync"
	_ "unsafe" // for go:linkname

	"k8s.io/kubernetes/pkg/volume"
	upstream "k8s.io/kubernetes/pkg/volume/csi"
	"k8s.io/kubernetes/pkg/volume/csi/nodeinfomanager"
)

//go:linkname nim k8s.io/kubernetes/pkg/volume/csi.nim
var nim nodeinfomanager.Interface

// current is upstream's variable, which upstream changes.
func current() *nodeinfomanager.Interface { return &nim }

// Guard is for one kubelet and the kube-controller-managers of its process, one after the other. A nil Guard does nothing.
type Guard struct {
	mu      sync.Mutex // held while a plugin is made
	made    bool       // the kubelet's
	nodes   nodeinfomanager.Interface
	handler upstream.RegistrationHandler
}

// Kubelet holds off others until the kubelet has made its plugins, or ctx ends. It returns a plugin to give to the kubelet
// as the last one.
func (g *Guard) Kubelet(ctx context.Context) []volume.VolumePlugin {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	release := sync.OnceFunc(g.mu.Unlock)
	context.AfterFunc(ctx, release)
	return []volume.VolumePlugin{&last{made: func() {
		g.made, g.nodes, g.handler = true, nim, *upstream.PluginHandler
		release()
	}}}
}

// Controllers calls build, which makes kube-controller-manager's plugins, and gives the kubelet back what is its own.
func (g *Guard) Controllers(build func()) {
	if g == nil {
		build()
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	build()
	if g.made {
		*current(), *upstream.PluginHandler = g.nodes, g.handler
	}
}

// last is a plugin for no volume: it only tells that those before it have been made.
type last struct {
	volume.VolumePlugin // the methods that nobody calls where CanSupport says no
	made                func()
}

// Init implements volume.VolumePlugin.
func (l *last) Init(volume.VolumeHost) error {
	l.made()
	return nil
}

// GetPluginName implements volume.VolumePlugin.
func (*last) GetPluginName() string { return "knarr.io/last" }

// CanSupport implements volume.VolumePlugin.
func (*last) CanSupport(*volume.Spec) bool { return false }
