// Package version says what this executable is. It is all constants, and the
// few strings that the linker sets; nothing changes them at run time.
package version

import (
	"fmt"
	"runtime"
)

// Kubernetes is the upstream release that this source tree embeds, unpatched.
const Kubernetes = "v1.37.1"

// Set by scripts/build with -X; a plain `go build` leaves these values.
var (
	// Version is the release: the Kubernetes version and knarr's count on it,
	// as in v1.37.1+knarr1. Build 0 is no release.
	Version = Kubernetes + "+knarr0"
	// GitCommit is the full hash, with "-dirty" if the tree had changes.
	GitCommit = "unknown"
	// BuildDate is the commit's time in RFC 3339, UTC: the same for each build.
	BuildDate = "unknown"
)

// String is the answer to `knarr --version`, without a final newline.
func String() string {
	return fmt.Sprintf("knarr version %s (%.12s)\ngo version %s %s/%s", Version, GitCommit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
