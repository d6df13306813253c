//go:build tools

// Package pin makes runc a dependency of this module, so that go.sum verifies
// exactly the sources which scripts/build-helpers compiles. It is never built.
package pin

import _ "github.com/opencontainers/runc"
