package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/knarr-io/knarr/tests/images"
)

const registry = "registry.k8s.io/"

// Images by their exact names (k8s.io/kubernetes/test/utils/image/manifest.go).
const (
	agnhost = registry + "e2e-test-images/agnhost:2.66.1"
	kitten  = registry + "e2e-test-images/kitten:1.8"
)

// alwaysPulled are what tests pull although it is there; the local registry has them.
var alwaysPulled = []string{agnhost, kitten}

// program is a file of the built directory and where an image has it.
type program struct {
	file, at string
	mode     int64
}

// recipe is one image: layers of others beneath, then files of its own. It
// follows the Dockerfiles below test/images of Kubernetes.
type recipe struct {
	refs     []string
	on       string // the recipe below, "" for none
	programs []program
	files    []images.File
	process  images.Process
}

var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// catalog are all images that the conformance tests want. A recipe comes after
// the one it is on.
var catalog = []recipe{
	{refs: []string{registry + "e2e-test-images/busybox:1.37.0-2"}, on: base,
		process: images.Process{Cmd: []string{"sh"}}},
	{refs: []string{registry + "e2e-test-images/glibc-dns-testing:2.1.1"}, on: base,
		process: images.Process{Cmd: []string{"bash"}}},
	{refs: []string{registry + "e2e-test-images/nonroot:1.5"}, on: base,
		process: images.Process{User: "1234", Cmd: []string{"bash"}}},
	{refs: []string{registry + "e2e-test-images/nginx:1.27.0-2", registry + "e2e-test-images/nginx:1.28.0-2"}, on: base,
		process: images.Process{Cmd: []string{"nginx", "-g", "daemon off;"}}},
	{refs: []string{registry + "e2e-test-images/nonewprivs:1.4"}, on: base,
		programs: []program{{"nnp", "usr/local/bin/nnp", 0o6755}},
		process:  images.Process{Cmd: []string{"nnp"}}},
	{refs: []string{registry + "e2e-test-images/sample-apiserver:1.29.2"}, on: base,
		programs: []program{{"sample-apiserver", "sample-apiserver", 0o755}},
		process:  images.Process{Entrypoint: []string{"/sample-apiserver"}}},
	{refs: []string{registry + "etcd:3.7.0-0"}, on: base,
		programs: []program{{"etcd", "usr/local/bin/etcd", 0o755}},
		process:  images.Process{Cmd: []string{"etcd"}}},
	{refs: []string{registry + "pause:3.10.2"},
		programs: []program{{"pause", "pause", 0o755}},
		process:  images.Process{User: "65535:65535", Entrypoint: []string{"/pause"}}},
	{refs: []string{agnhost, registry + "e2e-test-images/agnhost:2.55"}, on: base,
		programs: []program{{"agnhost", "agnhost", 0o755}, {"localhost.crt", "localhost.crt", 0o644}, {"localhost.key", "localhost.key", 0o644}},
		files: []images.File{
			{Name: "agnhost-2", Link: "agnhost", Mode: 0o777},
			// By this the tests of volumes made of images know the image (upstream's is made on Alpine).
			{Name: "etc/os-release", Mode: 0o644, Data: []byte("ID=alpine\nNAME=\"Alpine Linux\"\n")},
		},
		process: images.Process{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}},
	{refs: []string{registry + "e2e-test-images/nautilus:1.8"}, on: agnhost,
		programs: []program{{"nautilus.jpg", "nautilus.jpg", 0o644}, {"nautilus.json", "data.json", 0o644}},
		process:  images.Process{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}},
	{refs: []string{kitten}, on: agnhost,
		programs: []program{{"kitten.jpg", "kitten.jpg", 0o644}, {"kitten.json", "data.json", 0o644}},
		process:  images.Process{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}},
}

// base is the root file system, no image of its own.
const base = "base"

// buildImages writes all images into one archive, unless a run before has. The
// archive appears whole or not at all.
func buildImages(built, archive string) error {
	if _, err := os.Stat(archive); err == nil {
		return nil
	}
	root, err := rootLayer(filepath.Join(built, "debs"), filepath.Join(built, "sh"))
	if err != nil {
		return fmt.Errorf("make the root file system of the images: %w", err)
	}
	layers := map[string][][]byte{base: {root}}
	var all []images.Image
	for _, r := range catalog {
		i := images.Image{Refs: r.refs, Process: r.process, Layers: layers[r.on]}
		i.Process.Env = environment
		own, err := r.ownFiles(built)
		if err != nil {
			return fmt.Errorf("make %s: %w", r.refs[0], err)
		}
		if len(own) > 0 {
			layer, err := images.PackLayer(own)
			if err != nil {
				return fmt.Errorf("pack %s: %w", r.refs[0], err)
			}
			i.Layers = append(i.Layers[:len(i.Layers):len(i.Layers)], layer)
		}
		layers[r.refs[0]] = i.Layers
		all = append(all, i)
	}
	if err := images.WriteDockerArchive(archive+".new", all...); err != nil {
		return err
	}
	return os.Rename(archive+".new", archive)
}

func (r recipe) ownFiles(built string) ([]images.File, error) {
	files := r.files
	for _, p := range r.programs {
		b, err := os.ReadFile(filepath.Join(built, p.file))
		if err != nil {
			return nil, err
		}
		files = append(files, images.File{Name: p.at, Data: b, Mode: p.mode})
	}
	return files, nil
}
