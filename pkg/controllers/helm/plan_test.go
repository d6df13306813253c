package helm

import (
	"errors"
	"fmt"
	"testing"

	"helm.sh/helm/v4/pkg/release/common"
)

func TestPlan(t *testing.T) {
	const ns = "default"
	ours := func(status common.Status, hash string, deployed bool) state {
		return state{revision: 3, status: status, hash: hash, owner: ns, deployed: deployed}
	}
	theirs := func(status common.Status, deployed bool) state {
		return state{revision: 3, status: status, deployed: deployed}
	}
	tests := []struct {
		name   string
		now    state
		policy string
		stale  bool
		want   string
	}{
		{"nothing there", state{}, "", false, "[install]"},
		{"as wanted", ours("deployed", "h", true), "", false, "[]"},
		{"changed", ours("deployed", "old", true), "", false, "[upgrade]"},
		{"installed by hand before", theirs("deployed", true), "", false, "[upgrade]"},
		{"killed in the first installation", ours("pending-install", "h", false), "", false, "[recover install]"},
		{"killed in an upgrade", ours("pending-upgrade", "h", true), policyAbort, false, "[recover upgrade]"},
		{"killed in an upgrade of what failed", ours("pending-upgrade", "h", false), "", false, "[recover install]"},
		{"killed in a rollback", ours("pending-rollback", "h", true), "", false, "[recover upgrade]"},
		{"killed after it was marked as failed", ours("failed", "", true), policyAbort, false, "[upgrade]"},
		{"somebody else's work in progress", theirs("pending-upgrade", true), "", false, "foreign"},
		{"somebody else's work long ago", theirs("pending-upgrade", true), "", true, "[recover upgrade]"},
		{"failed", ours("failed", "h", false), "", false, "[uninstall install]"},
		{"failed, reinstall", ours("failed", "h", true), policyReinstall, false, "[uninstall install]"},
		{"failed, abort", ours("failed", "old", true), policyAbort, false, "halted"},
		{"failed, retry, same", ours("failed", "h", true), policyRetry, false, "halted"},
		{"failed, retry, changed", ours("failed", "old", true), policyRetry, false, "[upgrade]"},
		{"failed at first, retry, changed", ours("failed", "old", false), policyRetry, false, "[install]"},
		{"failed by hand, abort", theirs("failed", true), policyAbort, false, "halted"},
		{"killed in removing it", ours("uninstalling", "h", false), "", false, "[uninstall install]"},
		{"removed by hand with its history kept", theirs("uninstalled", false), "", false, "[install]"},
		{"superseded only", theirs("superseded", false), "", false, "[install]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			steps, err := plan(tt.now, "h", tt.policy, tt.stale)
			got := fmt.Sprint(steps)
			var stopped halted
			switch {
			case errors.Is(err, errForeign):
				got = "foreign"
			case errors.As(err, &stopped):
				got = "halted"
			case err != nil:
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
