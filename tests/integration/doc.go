// Package integration holds the tests of the built executable that need no
// pods: what it says about wrong configurations and broken hosts, what it
// writes and with which permissions, the API without a node, and the
// executables for ARM under emulation. KNARR_BIN names the executable under
// test, dist/knarr by default.
package integration
