// Command cni is all the CNI plugins that knarr brings along in one executable,
// which runs the plugin whose name it was called by. The plugin packages are
// made by scripts/build-helpers from the sources of the required release.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/knarr-io/knarr/scripts/helpers/cni/plugin/bandwidth"
	"github.com/knarr-io/knarr/scripts/helpers/cni/plugin/bridge"
	"github.com/knarr-io/knarr/scripts/helpers/cni/plugin/hostlocal"
	"github.com/knarr-io/knarr/scripts/helpers/cni/plugin/loopback"
	"github.com/knarr-io/knarr/scripts/helpers/cni/plugin/portmap"
)

func main() {
	plugins := map[string]func(){
		"bandwidth":  bandwidth.Main,
		"bridge":     bridge.Main,
		"host-local": hostlocal.Main,
		"loopback":   loopback.Main,
		"portmap":    portmap.Main,
	}
	name := filepath.Base(os.Args[0])
	run, ok := plugins[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "cni: %q is none of the plugins in this executable; call it by the name of one\n", name)
		os.Exit(1)
	}
	run()
}
