// Package globals sets what a process has only once and what everything that is
// embedded in it shares: where klog, logrus, grpclog, zap, OpenTelemetry and the log
// package write, the feature gates, environment variables, umask, the garbage
// collector, and what upstream has variables for in place of flags. It is the one
// package that does; nobody calls logsapi.ValidateAndApply (component-base/logs/api/v1),
// which may run once and would take klog away.
//
// It is not a component and starts nothing. [Apply] comes before anything else of
// upstream, [ApplyFeatureGates] when all argument lists are parsed and before the
// first component starts. There is no way back: the settings last as long as the
// process.
package globals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// Config is what is global.
type Config struct {
	// Handler receives all records. What Verbosity lets pass is handed to its
	// Handle without asking its Enabled: upstream's levels have a scale of their
	// own. Each record names its "component".
	Handler slog.Handler
	// Verbosity is klog's -v. At 0 only warnings and errors of upstream pass; from
	// 1 on its Info, from 4 on the Debug of what has levels with names, too.
	Verbosity int
	// Debug lets upstream's Info pass, as a Verbosity of 1 does.
	Debug bool
	// VModule is klog's -vmodule, PATTERN=LEVEL each. Giving it lets upstream's
	// Info pass, as a Verbosity of 1 does.
	VModule []string

	// Exit takes the place of the end of the process where upstream calls for it through klog (Fatal, FlushAndExit),
	// after the record that says why. It must not return. Nil leaves klog's own.
	Exit func(code int)

	// PATH replaces the variable of the same name; "" leaves it alone.
	PATH string
	// TempDir becomes TMPDIR: it is made with mode 0700 and emptied of what an
	// earlier process left there; "" leaves TMPDIR alone.
	TempDir string
	// WireGuardKey is the file that flannel keeps the node's key in
	// (pkg/backend/wireguard/device.go:77), which it is told by a variable; ""
	// leaves it alone.
	WireGuardKey string
	// OOMScoreAdj is the process's own, in [-1000, 1000]; 0 leaves it alone. That a
	// lower one is not permitted is a debug record, not an error.
	OOMScoreAdj int
	// GCPercent is GOGC; 0 leaves it alone, -1 switches it off.
	GCPercent int
	// MemoryLimit is GOMEMLIMIT in bytes; 0 leaves it alone.
	MemoryLimit int64
}

// umask is what containerd and the kubelet are written for: both make directories
// that processes of other users must be able to enter (snapshots, volumes,
// hostPath's DirectoryOrCreate) with a plain mkdir of mode 0755.
const umask = 0o022

// applied and gated note that the process has its settings. They are the reason
// why tests of this package share one process with care.
var applied, gated atomic.Bool

// Apply makes c the settings of the process. It may be called once.
func Apply(c Config) error {
	if !applied.CompareAndSwap(false, true) {
		return errors.New("apply the settings of the process: they were applied already, and can be only once")
	}
	b := bridge{handler: c.Handler, verbosity: c.Verbosity, start: time.Now()}
	if len(c.VModule) > 0 || c.Debug {
		b.verbosity = max(b.verbosity, 1)
	}
	if err := b.useKlog(c.Verbosity, c.VModule); err != nil {
		return err
	}
	if c.Exit != nil {
		klog.OsExit = c.Exit
	}
	b.useLogrus()
	b.useGRPC()
	b.useZap()
	b.useStandard()
	b.useOTel()
	useMetrics()
	useLeases()
	if err := bridgeMetrics(); err != nil {
		return err
	}
	// kube-apiserver and kube-controller-manager do so first thing
	// (cmd/kube-apiserver/app/server.go:91, cmd/kube-controller-manager/app/controllermanager.go:130):
	// the API's warnings are for people with kubectl.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})

	log := slog.New(c.Handler)
	unix.Umask(umask)
	for name, value := range map[string]string{"PATH": c.PATH, "WIREGUARD_KEY_FILE": c.WireGuardKey} {
		if value == "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := useTempDir(c.TempDir, log); err != nil {
		return err
	}
	if err := setOOMScore(c.OOMScoreAdj, log); err != nil {
		return err
	}
	tellLimits(log)
	if c.GCPercent != 0 {
		debug.SetGCPercent(c.GCPercent)
	}
	if c.MemoryLimit != 0 {
		debug.SetMemoryLimit(c.MemoryLimit)
	}
	return nil
}

// passes tells whether a record of upstream at this level is wanted. slog's levels
// and klog's meet as logr has it: V(n) is -n, hence Info is V(0), Debug V(4).
func (b bridge) passes(level slog.Level) bool {
	return level >= slog.LevelWarn || b.verbosity > 0 && int(level) >= -b.verbosity
}

// bridge leads the logs of upstream to one handler.
type bridge struct {
	handler   slog.Handler
	verbosity int
	start     time.Time
}

// write hands over a record that is wanted, as one of component, unless it turns out
// to be harmless.
func (b bridge) write(component string, r slog.Record) error {
	if level := b.levelOf(component, r); level != r.Level {
		if !b.passes(level) {
			return nil
		}
		r.Level = level
	}
	r.AddAttrs(slog.String(componentKey, component))
	return b.handler.Handle(context.Background(), r)
}
