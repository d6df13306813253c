// Package uninstall finds everything that knarr created on this host and takes
// it away again, in an order in which every step can be repeated.
//
// It is not a cleaner of Kubernetes at large: what another runtime, cluster or
// person created stays, and so does everything behind a mount, whatever it is
// mounted on. What looks shared while another Kubernetes runs on the host stays
// too. Nothing is remembered between runs: a second run, or one after a kill -9,
// finds what is left and goes on.
//
// Find only reads. Execute stops between two items when its context ends.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/process"
	"github.com/knarr-io/knarr/pkg/service"
)

// Layout is where knarr's things are on this host.
type Layout struct {
	// Root is put before every path; "" means "/". Only tests set it.
	Root string
	// DataDir is knarr's state, RunDir its sockets and mounts, ConfigDir its
	// configuration.
	DataDir, RunDir, ConfigDir string
	// KubeletDir is the kubelet's root directory.
	KubeletDir string
	// Manifest lists the files that install.sh wrote, one path a line.
	Manifest string
	// NetnsDir is where CNI keeps network namespaces, CgroupDir where the control
	// groups are mounted.
	NetnsDir, CgroupDir string
	// Table reads the processes.
	Table process.Table
	// Run executes a program of the host (iptables, systemctl); nil for the real one.
	Run func(ctx context.Context, name string, args ...string) (string, error)
}

// DefaultLayout is the layout of a plain installation.
func DefaultLayout() Layout {
	return Layout{
		DataDir:    "/var/lib/knarr",
		RunDir:     "/run/knarr",
		ConfigDir:  "/etc/knarr",
		KubeletDir: "/var/lib/kubelet",
		Manifest:   "/etc/knarr/install-manifest",
		NetnsDir:   "/run/netns",
		CgroupDir:  "/sys/fs/cgroup",
	}
}

func (l Layout) path(elem ...string) string {
	return filepath.Join(append([]string{"/", l.Root}, elem...)...)
}

// shown is a path below Root as the user knows it.
func (l Layout) shown(path string) string {
	if l.Root == "" {
		return path
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(path, l.Root), "/")
}

func (l Layout) run(ctx context.Context, name string, args ...string) (string, error) {
	if l.Run != nil {
		return l.Run(ctx, name, args...)
	}
	return service.RunProgram(ctx, name, args...)
}

func (l Layout) services() service.Host {
	return service.Host{Root: l.Root, RunDir: l.RunDir, Table: l.Table, Run: l.Run}
}

// Scope says how much is taken away.
type Scope int

const (
	// ScopePods ends the pods and removes what only running pods need.
	ScopePods Scope = iota
	// ScopeKeepData removes all but the data directory and the configuration.
	ScopeKeepData
	// ScopeAll removes everything.
	ScopeAll
)

// Kind groups the items of a plan; the values are shown to the user.
type Kind string

// The kinds in the order in which they are removed.
const (
	KindService Kind = "service"
	KindPod     Kind = "pod"
	KindNetns   Kind = "network namespace"
	KindLink    Kind = "network link"
	KindTable   Kind = "nftables table"
	KindChain   Kind = "iptables chains"
	KindMount   Kind = "mount"
	KindCgroup  Kind = "control group"
	KindFile    Kind = "file"
)

// Item is one thing to remove.
type Item struct {
	Kind Kind
	Name string
	// Note says more to the user; often empty.
	Note string

	// remove takes it away; what is gone already is no error. The result names
	// what had to stay.
	remove func(context.Context, Options) []Kept
}

// Kept is something that stays on the host, and why.
type Kept struct {
	Name   string
	Reason string
}

func (k Kept) String() string { return k.Name + ": " + k.Reason }

// Plan is what would be removed.
type Plan struct {
	Items []Item
	// Kept is what looks like knarr's but stays.
	Kept []Kept
}

// Options for Execute.
type Options struct {
	// Grace is the time a container has between SIGTERM and SIGKILL.
	Grace time.Duration
	// Progress gets a line for each removed item; nil for none.
	Progress io.Writer
}

// Report is what Execute did.
type Report struct {
	Removed int
	// Kept is what could not be removed, and why.
	Kept []Kept
}

// Find lists what there is to remove. It changes nothing.
func Find(ctx context.Context, l Layout, scope Scope) (*Plan, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	f := &finder{Layout: l, scope: scope, plan: &Plan{}}
	var err error
	if f.processes, err = l.Table.List(); err != nil {
		return nil, err
	}
	f.shims = l.ownShims(f.processes)
	f.foreign = l.foreignKubernetes(f.processes, f.shims)
	for _, step := range []struct {
		what string
		from Scope
		find func(context.Context) error
	}{
		{"services", ScopeKeepData, f.findServices},
		{"pods", ScopePods, f.findPods},
		{"network namespaces", ScopePods, f.findNetns},
		{"network links", ScopePods, f.findLinks},
		{"nftables tables", ScopePods, f.findTables},
		{"iptables chains", ScopePods, f.findChains},
		{"mounts", ScopePods, f.findMounts},
		{"control groups", ScopePods, f.findCgroups},
		{"files", ScopeKeepData, f.findFiles},
	} {
		if scope < step.from {
			continue
		}
		if err := step.find(ctx); err != nil {
			return nil, fmt.Errorf("look for %s: %w", step.what, err)
		}
	}
	return f.plan, nil
}

// check refuses a layout whose directories hold more than knarr.
func (l Layout) check() error {
	for _, dir := range []struct{ flag, path string }{
		{"data-dir", l.DataDir}, {"run-dir", l.RunDir}, {"configuration directory", l.ConfigDir}, {"kubelet directory", l.KubeletDir},
	} {
		clean := filepath.Clean(dir.path)
		if !filepath.IsAbs(clean) || strings.Count(clean, "/") < 2 {
			return fmt.Errorf("%s %q: want an absolute path at least two levels deep, nothing is removed", dir.flag, dir.path)
		}
		switch clean {
		case "/var/lib", "/var/log", "/var/run", "/usr/bin", "/usr/lib", "/usr/local", "/usr/share", "/var/cache", "/etc/systemd":
			return fmt.Errorf("%s %q is a directory of the system, nothing is removed", dir.flag, dir.path)
		}
	}
	return nil
}

// finder collects a plan.
type finder struct {
	Layout
	scope     Scope
	plan      *Plan
	processes []process.Process
	shims     []process.Process
	// foreign is another Kubernetes on this host, nil when there is none.
	foreign *process.Process
	// later are directories to remove at the end if they are empty by then.
	later []string
}

func (f *finder) add(item Item) { f.plan.Items = append(f.plan.Items, item) }

func (f *finder) keep(name, reason string) {
	f.plan.Kept = append(f.plan.Kept, Kept{Name: name, Reason: reason})
}

// shared adds an item of a name that any Kubernetes may use, or keeps it while
// another one runs here.
func (f *finder) shared(item Item) {
	if f.foreign != nil {
		f.keep(item.Name, "may belong to "+f.foreign.String()+", another Kubernetes on this host")
		return
	}
	f.add(item)
}

func (f *finder) findServices(ctx context.Context) error {
	host := f.services()
	for _, s := range host.Installed() {
		f.add(Item{Kind: KindService, Name: s.String(), remove: func(ctx context.Context, _ Options) []Kept {
			err := host.Stop(ctx, s)
			if err == nil {
				err = host.Disable(ctx, s)
			}
			return keptOn(s.String(), err)
		}})
	}
	return nil
}

// Execute removes the items of the plan in order. It goes on after a failure:
// whatever can be removed is. When ctx ends it stops before the next item.
func (p *Plan) Execute(ctx context.Context, options Options) Report {
	var report Report
	for i, item := range p.Items {
		if ctx.Err() != nil {
			for _, rest := range p.Items[i:] {
				report.Kept = append(report.Kept, Kept{Name: rest.Name, Reason: "interrupted before its turn; run the command again"})
			}
			return report
		}
		kept := item.remove(ctx, options)
		report.Kept = append(report.Kept, kept...)
		if len(kept) > 0 {
			continue
		}
		report.Removed++
		if options.Progress != nil {
			// Output that nobody reads any more does not stop the work.
			_, _ = fmt.Fprintf(options.Progress, "removed %s %s\n", item.Kind, item.Name)
		}
	}
	return report
}

// keptOn is what stays because of err: nothing when it is nil.
func keptOn(name string, err error) []Kept {
	if err == nil {
		return nil
	}
	var kept []Kept
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			kept = append(kept, Kept{Name: name, Reason: e.Error()})
		}
		return kept
	}
	return []Kept{{Name: name, Reason: err.Error()}}
}
