// Package bundle is everything knarr executes at run time and keeps inside its
// own executable: runc, containerd's shim, the CNI plugins, nft, the pause
// image. It extracts them below the data directory, one directory per content:
//
//	data/<id>/bin      first in PATH: runc, containerd-shim-runc-v2, nft
//	data/<id>/bin/aux  last in PATH: mount, umount, modprobe for hosts without
//	data/<id>/cni      the CNI plugins
//	data/<id>/images   image archives, imported into containerd at start
//	data/current       a link to the directory in use
//	data/ingress       likewise, for the ingress controller: <id>/traefik
//
// A directory appears whole or not at all, whatever kills the process or the
// machine: everything is written and synced under a name beginning with a dot,
// then renamed. Each later start compares inode, change time, size and mode of
// every file with what was recorded when its hash was last seen to be right,
// and reads and hashes only what differs; so a file that someone damaged is
// found, and replaced, at the cost of a few dozen lstat calls. (What a disk
// corrupts by itself is not found.)
//
// A file that runs is never written to: a replacement is renamed over it. And
// Prune leaves what a running process, such as the shim of a pod started by an
// earlier version, was started from.
//
// The package starts no goroutine that outlives a call, and no process.
package bundle

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/knarr-io/knarr/pkg/bundle/manifest"
)

// PauseImage is the full name of the image in images/pause.tar, under which
// containerd can pin it.
const PauseImage = "docker.io/knarr/pause:1"

// BaseImage is the full name of the image in images/base.tar. It holds certificate
// authorities, an empty /tmp, users, and no program: pods that knarr brings along
// run its own executable, mounted into it (see LinkSelf).
const BaseImage = "docker.io/knarr/base:1"

// ErrNoBundle means that the executable was built without a bundle, as plain
// `go build` does.
var ErrNoBundle = errors.New("this executable was built without its bundle of runc, the CNI plugins and nft: build it with scripts/build")

// Bundle is an archive with its manifest. It is immutable.
type Bundle struct {
	id      string
	files   manifest.Manifest
	archive string

	// step is called before each change to the disk; tests die there.
	step func(what string)
}

// Embedded returns the bundle in this executable, or ErrNoBundle.
func Embedded() (*Bundle, error) { return embedded(embeddedManifest, embeddedArchive) }

// Ingress returns the other bundle in this executable, or ErrNoBundle: the
// program of the ingress controller, traefik. It is one of its own since it is
// large and no node needs it to be ready.
func Ingress() (*Bundle, error) { return embedded(ingressManifest, ingressArchive) }

func embedded(encoded, archive string) (*Bundle, error) {
	if archive == "" {
		return nil, ErrNoBundle
	}
	b, err := New(encoded, archive)
	if err != nil {
		return nil, err
	}
	if b.files.Arch != runtime.GOARCH {
		return nil, fmt.Errorf("the bundle in this executable is for %s, the executable for %s: build it again with scripts/build", b.files.Arch, runtime.GOARCH)
	}
	return b, nil
}

// New returns the bundle of an encoded manifest and its archive, a
// zstd-compressed tar file. The archive is not read before it is needed.
func New(encoded, archive string) (*Bundle, error) {
	m, err := manifest.Parse([]byte(encoded))
	if err != nil {
		return nil, err
	}
	return &Bundle{id: manifest.ID([]byte(encoded)), files: m, archive: archive, step: func(string) {}}, nil
}

// ID names the content of the bundle; it is the name of its directory.
func (b *Bundle) ID() string { return b.id }

// Layout says where the files of an extracted bundle lie. All paths are absolute.
type Layout struct {
	// Root is the bundle's directory, data/<id>.
	Root string
	// Bin goes first in PATH.
	Bin string
	// Aux goes last in PATH, since what the host has is more capable.
	Aux string
	// CNI is the directory of the CNI plugins.
	CNI string
	// Images holds image archives (*.tar).
	Images string
}

func layout(root string) Layout {
	return Layout{
		Root:   root,
		Bin:    filepath.Join(root, "bin"),
		Aux:    filepath.Join(root, "bin", "aux"),
		CNI:    filepath.Join(root, "cni"),
		Images: filepath.Join(root, "images"),
	}
}

// PATH returns the search path for knarr and what it starts: Bin, then host (a
// PATH; may be empty), then Aux.
func (l Layout) PATH(host string) string {
	list := string(filepath.ListSeparator)
	if host = strings.Trim(host, list); host != "" {
		host += list
	}
	return l.Bin + list + host + l.Aux
}
