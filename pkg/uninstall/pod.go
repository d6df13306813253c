package uninstall

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
)

// ownShims are the containerd shims of knarr. Another containerd's shims have the
// same name and often the same executable, but not the address of our socket.
func (l Layout) ownShims(all []process.Process) []process.Process {
	var shims []process.Process
	for _, p := range all {
		if len(p.Args) == 0 || !strings.HasPrefix(filepath.Base(p.Args[0]), "containerd-shim") {
			continue
		}
		if within(p.Flag("address"), l.RunDir) || within(p.Exe, l.DataDir) {
			shims = append(shims, p)
		}
	}
	return shims
}

// within reports whether path is strictly below dir.
func within(path, dir string) bool {
	return path != "" && strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+"/")
}

// foreignKubernetes is a kubelet of somebody else in this network namespace, alone
// or inside another distribution's executable. One in a container does not count:
// what it creates, it creates in there.
func (l Layout) foreignKubernetes(all, shims []process.Process) *process.Process {
	ours := map[int]bool{}
	for _, p := range process.Descendants(all, shims...) {
		ours[p.PID] = true
	}
	names := []string{"kubelet", "k3s", "k3s-server", "k3s-agent", "rke2", "k0s", "kubelite"}
	here := l.Table.Namespace("self", "net")
	for _, p := range all {
		if ours[p.PID] || !slices.Contains(names, p.Name()) && !slices.Contains(names, p.Comm) {
			continue
		}
		if ns := l.Table.Namespace(fmt.Sprint(p.PID), "net"); ns == "" || ns == here {
			return &p
		}
	}
	return nil
}

func (f *finder) findPods(context.Context) error {
	if len(f.shims) == 0 {
		return nil
	}
	below := process.Descendants(f.processes, f.shims...)
	f.add(Item{
		Kind: KindPod, Name: fmt.Sprintf("all %d of this node", len(f.shims)),
		Note:   fmt.Sprintf("%d processes; SIGTERM, then SIGKILL after the grace", len(below)),
		remove: f.endPods,
	})
	return nil
}

// shimWait is how long a shim may take to end by itself after its containers.
const shimWait = 5 * time.Second

// endPods ends containers first, then what they left behind together with the
// pause processes that hold their namespaces, then the shims.
func (f *finder) endPods(ctx context.Context, options Options) []Kept {
	all, err := f.Table.List()
	if err != nil {
		return keptOn("pods", err)
	}
	shims := f.ownShims(all)
	var containers []process.Process
	for _, p := range process.Descendants(all, shims...) {
		if p.Comm != "pause" && slices.ContainsFunc(shims, func(s process.Process) bool { return s.PID == p.PPID }) {
			containers = append(containers, p)
		}
	}
	var errs []error
	_, err = f.Table.End(ctx, containers, options.Grace)
	errs = append(errs, err)

	// A shim adopts what outlives its container's first process, so the tree is
	// read again; a new container cannot appear, since knarr itself has ended.
	if all, err = f.Table.List(); err != nil {
		return keptOn("pods", err)
	}
	rest := process.Descendants(all, f.ownShims(all)...)
	for _, p := range rest {
		errs = append(errs, f.Table.Signal(p, unix.SIGKILL))
	}
	wait, cancel := context.WithTimeout(ctx, shimWait)
	defer cancel()
	left := f.Table.Wait(wait, rest)
	stuck, err := f.Table.End(ctx, f.ownShims(all), shimWait)
	kept := keptOn("pods", errors.Join(append(errs, err)...))
	for _, p := range append(left, stuck...) {
		kept = append(kept, Kept{Name: p.String(), Reason: "does not end even after SIGKILL; it hangs in the kernel, often on a dead network mount"})
	}
	return kept
}
