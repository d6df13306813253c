package bundle

import "path/filepath"

// Current is the layout under the path that stays the same from version to version: dir/current, which Extract points
// at the bundle in use. What outlives this process (a shim, containerd's memory of a pod's runtime) must be named by it.
func Current(dir string) Layout { return layout(filepath.Join(dir, "current")) }
