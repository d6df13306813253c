package netpol

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/apart"
)

// TestMain runs all tests of this package in a network namespace of their own, so that they can program packets without
// touching the machine.
func TestMain(m *testing.M) { os.Exit(apart.Run(m, unix.CLONE_NEWNET, nil)) }
