package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ownDataEntries are the names that knarr makes directly in its data directory.
// Whatever else is there was put there by somebody else and stays.
func ownDataEntries() []string {
	return []string{"server", "agent", "storage", "data", "tmp", "version", "lock", "backups", "restoring"}
}

// ownDataEntry also knows what a restore keeps, and what a fetch from S3 leaves when it is killed.
func ownDataEntry(name string) bool {
	return slices.Contains(ownDataEntries(), name) ||
		strings.HasPrefix(name, "server.before-restore-") || strings.HasPrefix(name, "fetching-")
}

// place is one path to remove.
type place struct {
	path string
	note string
	// shared is set for paths that every Kubernetes uses.
	shared bool
	// emptyOnly is set for directories that others may have filled.
	emptyOnly bool
	// data is set for what --keep-data keeps.
	data bool
}

// places lists the paths outside the data directory, and its entries.
func (f *finder) places() ([]place, error) {
	all := []place{
		{path: f.path(f.RunDir)},
		{path: f.path("run/flannel"), shared: true},
		{path: f.path("var/log/pods"), note: "logs of pods", shared: true},
		{path: f.path("var/log/containers"), note: "links to the logs of pods", shared: true},
		{path: f.path("etc/systemd/logind.conf.d/99-kubelet.conf"), note: "how long the kubelet may delay a shutdown", shared: true},
		{path: f.path("var/lib/cni/networks/cbr0"), shared: true},
		{path: f.path("var/lib/cni/networks/knarr")},
		{path: f.path("var/lib/cni/flannel"), shared: true},
	}
	all = append(f.shimSockets(), all...) // before the bundles that name them
	for _, pattern := range []place{
		{path: "var/lib/cni/results/cbr0-*", shared: true}, {path: "var/lib/cni/results/cni-loopback-*", shared: true}, {path: "var/lib/cni/results/knarr-*"},
		{path: "etc/cni/net.d/*knarr*"}, {path: "var/log/knarr.log*"}, {path: "var/log/knarr/*.log*"},
	} {
		// The patterns are constant, so Glob cannot fail.
		paths, _ := filepath.Glob(f.path(pattern.path))
		for _, path := range paths {
			all = append(all, place{path: path, shared: pattern.shared})
		}
	}
	for _, dir := range []string{
		"var/log/knarr", "var/lib/cni/networks", "var/lib/cni/results", "var/lib/cni/cache/results", "var/lib/cni/cache",
		"var/lib/cni", "run/containerd/s", "run/containerd", "etc/cni/net.d", "etc/cni", "usr/libexec/kubernetes/kubelet-plugins/volume/exec",
		"usr/libexec/kubernetes/kubelet-plugins/volume", "usr/libexec/kubernetes/kubelet-plugins", "usr/libexec/kubernetes",
		"etc/systemd/logind.conf.d",
	} {
		all = append(all, place{path: f.path(dir), shared: true, emptyOnly: true})
	}
	if kubeadm := f.kubeadmFile(); kubeadm != "" {
		f.keep(f.KubeletDir, kubeadm+" says that it is kubeadm's")
	} else {
		all = append(all, place{path: f.path(f.KubeletDir), note: "the kubelet's state and volumes of the kind emptyDir", shared: true})
	}
	data, err := f.dataPlaces()
	if err != nil {
		return nil, err
	}
	return append(append(all, data...), f.configPlaces()...), nil
}

// configPlaces are the configuration, and what restores have put beside it.
func (f *finder) configPlaces() []place {
	all := []place{{path: f.path(f.ConfigDir), note: "configuration", data: true}}
	for _, end := range []string{".restored-*", ".before-restore-*", ".restoring"} {
		paths, err := filepath.Glob(f.path(f.ConfigDir) + end)
		if err != nil {
			continue // the directory's name is a pattern that cannot be
		}
		for _, path := range paths {
			all = append(all, place{path: path, note: "configuration of before or after a restore", data: true})
		}
	}
	return all
}

// kubeadmFile is a file of a node that kubeadm set up, "" when there is none.
func (f *finder) kubeadmFile() string {
	for _, name := range []string{filepath.Join(f.KubeletDir, "kubeadm-flags.env"), "/etc/kubernetes/kubelet.conf"} {
		if present(f.path(name)) {
			return name
		}
	}
	return ""
}

// dataPlaces are knarr's own entries of the data directory, and the directory
// itself when nothing else is in it.
func (f *finder) dataPlaces() ([]place, error) {
	dir, err := filepath.EvalSymlinks(f.path(f.DataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return []place{{path: f.path(f.DataDir), data: true}}, nil // at most a dangling link
	}
	if err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read data directory: %w", err)
	}
	var found []place
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if !ownDataEntry(entry.Name()) {
			f.keep(f.shown(path), "not made by knarr")
			continue
		}
		p := place{path: path, data: true}
		switch entry.Name() {
		case "server":
			p.note = "the cluster's objects and keys"
		case "storage":
			p.note = "the pods' persistent volumes"
		}
		found = append(found, p)
	}
	found = append(found, place{path: dir, data: true, emptyOnly: true})
	if dir != f.path(f.DataDir) {
		found = append(found, place{path: f.path(f.DataDir), note: "link to " + f.shown(dir), data: true})
	}
	return found, nil
}

// findFiles lists what is there of all places, then what the installer wrote. The
// executable and the list of the installer go last: as long as they are there,
// `knarr uninstall` can be run again.
func (f *finder) findFiles(context.Context) error {
	places, err := f.places()
	if err != nil {
		return err
	}
	keepData := f.scope == ScopeKeepData
	for _, p := range places {
		switch {
		case !present(p.path):
		case p.data && keepData:
			if !p.emptyOnly {
				f.keep(f.shown(p.path), "--keep-data")
			}
		case p.emptyOnly:
			f.planEmpty(p)
		default:
			f.planTree(p)
		}
	}
	return f.findInstalled(keepData)
}

func (f *finder) planTree(p place) {
	item := Item{Kind: KindFile, Name: f.shown(p.path), Note: p.note, remove: func(context.Context, Options) []Kept {
		return f.removePlace(p.path)
	}}
	if p.shared {
		f.shared(item)
	} else {
		f.add(item)
	}
}

// removePlace removes a path of ours, except for the installer's list, which
// findInstalled removes at the very end.
func (f *finder) removePlace(path string) []Kept {
	mounted, err := isMountPoint(path)
	if err != nil {
		return keptOn(f.shown(path), err)
	}
	if path == f.path(filepath.Dir(f.Manifest)) && present(f.path(f.Manifest)) {
		return f.removeAllBut(path, filepath.Base(f.Manifest))
	}
	if mounted {
		// The user mounted a disk there for knarr: what is on it is knarr's.
		return append(removeContents(path), Kept{Name: f.shown(path), Reason: "empty now, but a mount point: unmount it and remove it yourself"})
	}
	return removeTree(path)
}

func (f *finder) removeAllBut(dir, spared string) []Kept {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return keptOn(f.shown(dir), err)
	}
	var kept []Kept
	for _, entry := range entries {
		if entry.Name() != spared {
			kept = append(kept, removeTree(filepath.Join(dir, entry.Name()))...)
		}
	}
	return kept
}

// planEmpty plans a directory that goes when it is empty by the time, without a
// word when it is not. It is not shown, since it may well not happen.
func (f *finder) planEmpty(p place) {
	f.later = append(f.later, p.path)
}

// removeEmpty removes the directories that are left empty.
func (f *finder) removeEmpty() []Kept {
	var kept []Kept
	for _, dir := range f.later {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.ENOTDIR):
		case errors.Is(err, unix.EBUSY):
			kept = append(kept, Kept{Name: f.shown(dir), Reason: "empty now, but a mount point: unmount it and remove it yourself"})
		default:
			kept = append(kept, Kept{Name: f.shown(dir), Reason: err.Error()})
		}
	}
	return kept
}

// findInstalled plans the files that the installer's list names. Only files and
// links are removed on the word of a list; a directory must be empty.
func (f *finder) findInstalled(keepData bool) error {
	manifest := f.path(f.Manifest)
	data, err := os.ReadFile(manifest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the installer's list: %w", err)
	}
	var executables []string
	for _, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		path := f.path(line)
		switch {
		case !filepath.IsAbs(line) || filepath.Clean(line) != line:
			f.keep(line, "the installer's list must hold absolute paths")
		case keepData && within(line, f.ConfigDir), line == f.Manifest, !present(path):
		case filepath.Base(line) == "knarr" && !strings.Contains(line, "/init.d/"):
			executables = append(executables, path)
		default:
			f.addInstalled(path)
		}
	}
	f.add(Item{Kind: KindFile, Name: "directories that are left empty", remove: func(context.Context, Options) []Kept { return f.removeEmpty() }})
	if len(data) > 0 {
		f.add(Item{Kind: KindService, Name: "list of the service manager", Note: "reload", remove: func(ctx context.Context, _ Options) []Kept {
			return keptOn("service manager", f.services().Forget(ctx))
		}})
	}
	for _, path := range executables {
		f.addInstalled(path)
	}
	if present(manifest) {
		f.add(Item{Kind: KindFile, Name: f.Manifest, remove: func(context.Context, Options) []Kept {
			kept := removeTree(manifest)
			if err := unix.Rmdir(filepath.Dir(manifest)); err == nil || errors.Is(err, unix.ENOTEMPTY) {
				return kept
			} else {
				return append(kept, keptOn(f.shown(filepath.Dir(manifest)), err)...)
			}
		}})
	}
	return nil
}

func (f *finder) addInstalled(path string) {
	name := f.shown(path)
	f.add(Item{Kind: KindFile, Name: name, remove: func(context.Context, Options) []Kept {
		err := unix.Unlink(path)
		if errors.Is(err, unix.EISDIR) {
			err = unix.Rmdir(path)
		}
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return keptOn(name, err)
	}})
}
