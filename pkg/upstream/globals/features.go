package globals

import (
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// ApplyFeatureGates makes the --feature-gates and --emulated-version that the flag
// sets of all components collected take effect, and publishes them as metrics. It
// may be called once, after the last flag set is parsed and before a component
// starts: upstream evaluates gates while it builds.
//
// It stands for what each upstream command does by itself right after parsing
// (cmd/kube-apiserver/app/server.go:77 and :111, cmd/kube-scheduler/app/server.go:171,
// cmd/kube-controller-manager/app/controllermanager.go:151). The registry is one for
// all: gates given to one component hold in all of them.
func ApplyFeatureGates() error {
	if !gated.CompareAndSwap(false, true) {
		return errors.New("apply the feature gates: they were applied already, and can be only once")
	}
	registry := compatibility.DefaultComponentGlobalsRegistry
	if err := registry.Set(); err != nil {
		return fmt.Errorf("apply the feature gates: %w", err)
	}
	if err := errors.Join(registry.Validate()...); err != nil {
		return fmt.Errorf("apply the feature gates: %w", err)
	}
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
	registry.AddMetrics()
	return nil
}
