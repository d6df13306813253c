package globals

import (
	"time"

	controlplane "k8s.io/kubernetes/pkg/controlplane/apiserver"
)

// identityRenewal is how often kube-apiserver renews the lease by which it is known. That lasts an hour and is looked
// at every hour (k8s.io/kubernetes v1.37.1 pkg/controlplane/apiserver/server.go:53-62); upstream's ten seconds would be
// a write to the disk, and a sync, three hundred times for each that counts.
const identityRenewal = 10 * time.Minute

// useLeases sets the variable that upstream has in place of a flag.
func useLeases() { controlplane.IdentityLeaseRenewIntervalPeriod = identityRenewal }
