// Package e2e holds the end-to-end tests: scenarios with the built executable on
// test hosts (packages lab and cluster), as its users meet it. Most scenarios
// share one server and have a namespace each; those about the life of a server,
// or of the node as a whole, have a host of their own or run alone.
//
//	KNARR_BIN            the executable under test, dist/knarr by default
//	KNARR_E2E_UPSTREAM   a directory made by tests/bench/upstream/build: run the
//	                     workload scenarios against plain upstream instead, to
//	                     tell a fault of knarr from one of a test
package e2e
