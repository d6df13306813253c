package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/knarr-io/knarr/tests/lab/labinit/spec"
)

// seen are the machine's directories that an ordinary host sees and may change
// for itself.
var seen = []string{"usr", "etc", "opt", "root", "home", "srv"}

// places every host has, whatever it sees of the machine.
var places = []struct {
	dir  string
	mode fs.FileMode
}{
	{"bin", 0o755}, {"dev", 0o755}, {"etc", 0o755}, {"proc", 0o755}, {"run", 0o755}, {"sys", 0o755}, {"tmp", 0o755},
	{"root", 0o700}, {"var/lib", 0o755}, {"var/log", 0o755}, {"var/cache", 0o755}, {"var/tmp", 0o777 | fs.ModeSticky},
}

// coreutils are the commands of a bare host, all of them links to busybox.
const coreutils = `sh [ basename cat chgrp chmod chown cp cut date dd df dirname du echo env expr false head hostname id
	kill link ln ls md5sum mkdir mkfifo mknod mktemp mv nice nohup nproc od printenv printf pwd readlink realpath rm rmdir
	seq sha256sum sleep sort split stat stty sync tail tee test timeout touch tr true truncate tty uname uniq unlink wc
	who whoami yes`

// root is the host's root directory as the machine sees it.
func (h *Host) root() string { return filepath.Join(h.Disk(), "root") }

func (h *Host) makeDisk() error {
	for _, p := range places {
		dir := filepath.Join(h.root(), p.dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(dir, p.mode); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(h.root(), "var/run")); err != nil {
		return err
	}
	if h.opts.Bare {
		return errors.Join(h.makeBareCommands(), h.makeEtc(filepath.Join(h.root(), "etc")))
	}
	if err := os.Remove(filepath.Join(h.root(), "bin")); err != nil {
		return err
	}
	if err := h.mirrorMachine(); err != nil {
		return err
	}
	return h.makeEtc(h.upper("etc"))
}

// upper is where the host's changes to one of the machine's directories are.
func (h *Host) upper(dir string) string { return filepath.Join(h.Disk(), "changes", dir) }

func (h *Host) mirrorMachine() error {
	for _, d := range seen {
		for _, dir := range []string{h.upper(d), filepath.Join(h.Disk(), "work", d), filepath.Join(h.root(), d)} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
	}
	// /bin, /sbin, /lib and its kin are links into /usr.
	top, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range top {
		to, err := os.Readlink(filepath.Join("/", e.Name()))
		if err != nil || !strings.HasPrefix(strings.TrimPrefix(to, "/"), "usr/") {
			continue
		}
		if err := os.Symlink(to, filepath.Join(h.root(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) makeBareCommands() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("find busybox for a bare host (Debian: apt-get install busybox-static): %w", err)
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.root(), "bin/busybox"), b, 0o755); err != nil {
		return err
	}
	for name := range strings.FieldsSeq(coreutils) {
		if err := os.Symlink("busybox", filepath.Join(h.root(), "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// makeEtc writes what makes one host another than its neighbour.
func (h *Host) makeEtc(dir string) error {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	files := map[string]string{
		"hostname":    h.name + "\n",
		"hosts":       "127.0.0.1 localhost\n" + h.Addr().String() + " " + h.name + "\n",
		"resolv.conf": "nameserver " + gateway().String() + "\n",
		"machine-id":  hex.EncodeToString(id[:]) + "\n",
	}
	if h.opts.Bare {
		files["passwd"] = "root:x:0:0:root:/root:/bin/sh\n"
		files["group"] = "root:x:0:\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// spec is what the host's init is told.
func (h *Host) spec() spec.Spec {
	s := spec.Spec{Hostname: h.name, Root: h.root(), Binds: h.opts.Binds}
	for _, d := range seen {
		if h.opts.Bare {
			break
		}
		s.Overlays = append(s.Overlays, spec.Overlay{Target: "/" + d, Lower: "/" + d, Upper: h.upper(d), Work: filepath.Join(h.Disk(), "work", d)})
	}
	for _, t := range h.trees {
		c := spec.Cgroup{Target: t.dir, Type: "cgroup", Options: t.options, Slice: filepath.Join(t.dir, h.slice())}
		if t.v2 {
			c.Type = "cgroup2"
		}
		s.Cgroups = append(s.Cgroups, c)
	}
	return s
}
