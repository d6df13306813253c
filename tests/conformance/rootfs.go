package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knarr-io/knarr/tests/images"
)

// merged are the directories that are links into /usr, whatever a package says.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// unwanted are what no test reads.
var unwanted = []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/", "usr/share/bash-completion/"}

// rootFiles are what Debian's packages leave to their installation scripts, and
// the user and the groups of upstream's agnhost (test/images/agnhost/Dockerfile).
var rootFiles = []images.File{
	{Name: "tmp/", Mode: 0o1777},
	{Name: "usr/bin/nc", Link: "nc.openbsd", Mode: 0o777},
	{Name: "uploads/", Mode: 0o755},
	{Name: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nuser-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n")},
	{Name: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")},
	{Name: "etc/nsswitch.conf", Mode: 0o644, Data: []byte("passwd: files\ngroup: files\nhosts: files dns\n")},
	{Name: "etc/nginx/nginx.conf", Mode: 0o644, Data: []byte("user www-data;\nevents {}\nhttp {\n  include /etc/nginx/mime.types;\n  server {\n    listen 80;\n    root /usr/share/nginx/html;\n  }\n}\n")},
}

// rootLayer is the root file system under most of the images: Debian packages
// unpacked, a shell of our own choice, and busybox for every command that those
// have not.
func rootLayer(debs, shell string) ([]byte, error) {
	packages, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return nil, fmt.Errorf("list Debian packages: %w", err)
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("no Debian packages in %s", debs)
	}
	root := map[string]images.File{}
	for _, p := range packages {
		if err := unpack(root, p); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", filepath.Base(p), err)
		}
	}
	for _, f := range rootFiles {
		root[f.Name] = f
	}
	program, err := os.ReadFile(shell)
	if err != nil {
		return nil, fmt.Errorf("read the shell: %w", err)
	}
	root["usr/bin/sh"] = images.File{Name: "usr/bin/sh", Data: program, Mode: 0o755}
	for _, dir := range merged {
		root[dir] = images.File{Name: dir, Link: "usr/" + dir, Mode: 0o777}
		root["usr/"+dir+"/"] = images.File{Name: "usr/" + dir + "/", Mode: 0o755}
	}
	if err := addApplets(root); err != nil {
		return nil, err
	}
	files := make([]images.File, 0, len(root))
	for _, f := range root {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b images.File) int { return strings.Compare(a.Name, b.Name) })
	return images.PackLayer(files)
}

// unpack adds a package's files to root.
func unpack(root map[string]images.File, deb string) error {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("dpkg-deb: %w\n%s", err, errs.Bytes())
	}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read its files: %w", err)
		}
		name := inUsr(h.Name)
		if name == "" || slices.ContainsFunc(unwanted, func(dir string) bool { return strings.HasPrefix(name, dir) }) {
			continue
		}
		f := images.File{Name: name, Mode: h.Mode}
		switch h.Typeflag {
		case tar.TypeDir:
			f.Name += "/"
		case tar.TypeSymlink:
			f.Link = h.Linkname
		case tar.TypeLink:
			f.Link = "/" + inUsr(h.Linkname)
		case tar.TypeReg:
			if f.Data, err = io.ReadAll(r); err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
		default:
			return fmt.Errorf("%s is of the unexpected type %q", name, h.Typeflag)
		}
		root[f.Name] = f
	}
}

// inUsr is a package's name of a file as it is in a root with merged /usr, ""
// for the root and for the links that do the merging.
func inUsr(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, below := strings.Cut(name, "/")
	if !slices.Contains(merged, first) {
		return name
	}
	if !below {
		return ""
	}
	return "usr/" + name
}

// addApplets makes links to busybox for what no package has.
func addApplets(root map[string]images.File) error {
	busybox, ok := root["usr/bin/busybox"]
	if !ok {
		return errors.New("the Debian packages hold no busybox")
	}
	dir, err := os.MkdirTemp("", "busybox")
	if err != nil {
		return fmt.Errorf("make a directory for busybox: %w", err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "busybox")
	if err := os.WriteFile(program, busybox.Data, 0o755); err != nil {
		return fmt.Errorf("write busybox: %w", err)
	}
	applets, err := exec.Command(program, "--list").Output()
	if err != nil {
		return fmt.Errorf("list busybox's applets: %w", err)
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		_, inBin := root["usr/bin/"+applet]
		_, inSbin := root["usr/sbin/"+applet]
		if !inBin && !inSbin {
			name := "usr/bin/" + applet
			root[name] = images.File{Name: name, Link: "busybox", Mode: 0o777}
		}
	}
	return nil
}
