// Package suite only says what of other modules the conformance suite is made
// of: Kubernetes' own end-to-end tests, as they are, and the programs in the
// images that those want. It is a module of its own so that nothing of this
// reaches knarr's; the versions they share are those of knarr's go.mod, so that
// most of it has been compiled before.
package suite

import (
	_ "github.com/onsi/gomega"
	_ "k8s.io/kubernetes/test/e2e"
)
