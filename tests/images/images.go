// Package images makes the container images of the end-to-end tests without a
// registry: one from Debian's static busybox, one from a server program of our
// own (directory testserver). It is not an image builder: an image is one layer
// of files made by the tests themselves.
package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// References of the images. The domain is one that can never be looked up, so
// that a cluster that tries to pull an image fails at once.
const (
	// Busybox has a shell, the usual tools, testserver among them, and a user
	// 1000 named "app". Debian's busybox cannot look names up without glibc's
	// plug-ins: for the network there is `testserver get`.
	Busybox = "knarr.test/busybox:1"
	// Server is the testserver program, its entry point, on an empty root.
	Server = "knarr.test/server:1"
)

// Build makes all images and returns the archives' paths in dir: a
// docker-archive and an OCI layout, since knarr imports both.
func Build(ctx context.Context, dir string) ([]string, error) {
	busybox, err := busyboxFiles(ctx)
	if err != nil {
		return nil, err
	}
	program, err := buildServer(ctx, dir)
	if err != nil {
		return nil, err
	}
	busybox = append(busybox, File{Name: "bin/testserver", Data: program, Mode: 0o755})
	server := []File{{Name: "testserver", Data: program, Mode: 0o755}, {Name: "tmp/", Mode: 0o1777}}
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	var paths []string
	for _, i := range []struct {
		file, ref string
		files     []File
		process   Process
		write     func(path string, i Image) error
	}{
		// Whoever names no command, such as a pod's sandbox, gets one that stays.
		{"busybox.tar", Busybox, busybox, Process{Cmd: []string{"sleep", "2147483647"}, Env: env},
			func(path string, i Image) error { return WriteDockerArchive(path, i) }},
		{"server.tar", Server, server, Process{Entrypoint: []string{"/testserver"}, Env: env}, WriteOCIArchive},
	} {
		layer, err := PackLayer(i.files)
		if err != nil {
			return nil, fmt.Errorf("pack layer of %s: %w", i.ref, err)
		}
		path := filepath.Join(dir, i.file)
		if err := i.write(path, Image{Refs: []string{i.ref}, Process: i.process, Layers: [][]byte{layer}}); err != nil {
			return nil, fmt.Errorf("write image %s: %w", i.ref, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func busyboxFiles(ctx context.Context) ([]File, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find busybox for the test images (Debian: apt-get install busybox-static): %w", err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	files := []File{
		{Name: "bin/busybox", Data: program, Mode: 0o755},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "etc/passwd", Data: []byte("root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n"), Mode: 0o644},
		{Name: "etc/group", Data: []byte("root:x:0:\napp:x:1000:\n"), Mode: 0o644},
	}
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			files = append(files, File{Name: "bin/" + name, Link: "busybox", Mode: 0o777})
		}
	}
	return files, nil
}

// buildServer compiles testserver, for the images and for the tests themselves.
func buildServer(ctx context.Context, dir string) ([]byte, error) {
	out := filepath.Join(dir, "testserver")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/knarr-io/knarr/tests/images/testserver")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if b, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build testserver: %w\n%s", err, b)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("read testserver: %w", err)
	}
	return program, nil
}
