package uninstall

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// shimSockets are the sockets of knarr's shims. Shims put them into a directory that is compiled into them and that
// every containerd on the host shares (containerd v2.4.2 pkg/shim/util_unix.go, socketRoot), so only those are removed
// that a pod's bundle names. One whose bundle is unreadable stays.
func (f *finder) shimSockets() []place {
	// The pattern is constant, so Glob cannot fail.
	bundles, _ := filepath.Glob(filepath.Join(f.path(f.RunDir), "containerd", "io.containerd.runtime.v2.task", "*", "*", "bootstrap.json"))
	var sockets []place
	for _, b := range bundles {
		var shim struct{ Address string }
		text, err := os.ReadFile(b)
		if err != nil || json.Unmarshal(text, &shim) != nil {
			continue
		}
		if path, ok := strings.CutPrefix(shim.Address, "unix://"); ok {
			sockets = append(sockets, place{path: f.path(path), note: "socket of a shim"})
		}
	}
	return sockets
}
