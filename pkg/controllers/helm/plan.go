package helm

import (
	"errors"
	"fmt"

	"helm.sh/helm/v4/pkg/release/common"
)

// step is one of Helm's actions.
type step string

const (
	stepRecover   step = "recover" // what an earlier process was interrupted in
	stepUninstall step = "uninstall"
	stepInstall   step = "install"
	stepUpgrade   step = "upgrade"
)

// permanent is an error that trying again does not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// halted is why nothing is done about a release that has failed: the failure itself is told already.
type halted struct{ error }

// errForeign is returned while somebody else works on the release.
var errForeign = errors.New("another Helm is working on the release")

// plan is what has to be done to make a release with the fingerprint hash out of what there is. stale tells that a
// foreign action on the release is so old that it must have been interrupted.
func plan(now state, hash, policy string, stale bool) ([]step, error) {
	again := stepInstall
	if now.deployed {
		again = stepUpgrade
	}
	switch now.status {
	case "": // there is no release
		return []step{stepInstall}, nil
	case common.StatusDeployed:
		if now.hash == hash {
			return nil, nil
		}
		return []step{stepUpgrade}, nil
	case common.StatusPendingInstall, common.StatusPendingUpgrade, common.StatusPendingRollback:
		if now.owner == "" && !stale {
			return nil, errForeign
		}
		return []step{stepRecover, again}, nil
	case common.StatusUninstalling:
		return []step{stepUninstall, stepInstall}, nil
	case common.StatusUninstalled:
		return []step{stepInstall}, nil
	case common.StatusFailed:
		return afterFailure(now, hash, policy, again)
	}
	return []step{again}, nil
}

// afterFailure obeys the failure policy, unless it was no failure but an interruption, which [releaser.recover] has
// marked by taking the hash away.
func afterFailure(now state, hash, policy string, again step) ([]step, error) {
	switch {
	case now.owner != "" && now.hash == "":
		return []step{again}, nil
	case policy == policyAbort:
		return nil, halted{fmt.Errorf("revision %d has failed and failurePolicy is %q: mend the release with helm, or change the policy", now.revision, policy)}
	case policy == policyRetry && now.hash == hash:
		return nil, halted{fmt.Errorf("revision %d has failed and failurePolicy is %q: change the HelmChart to try again", now.revision, policy)}
	case policy == policyRetry:
		return []step{again}, nil
	}
	return []step{stepUninstall, stepInstall}, nil
}
