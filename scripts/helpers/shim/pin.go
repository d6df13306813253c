//go:build tools

// Package pin makes containerd's runc shim a dependency of this module, so that
// go.sum verifies exactly the sources which scripts/build-helpers compiles. It
// is never built.
package pin

import _ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
