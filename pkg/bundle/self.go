package bundle

import (
	"fmt"
	"os"
	"path/filepath"
)

// LinkSelf points the link at path to this executable, for pods to mount: the programs that knarr runs in pods are
// knarr, in the image BaseImage. Containers that run keep the file that they were started with.
//
// A file that not everybody may execute is an error, though the link is made: the pods' users are nobody.
func LinkSelf(path string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find knarr's own executable: %w", err)
	}
	if err := link(self, path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at knarr's own executable: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o005 != 0o005 {
		return fmt.Errorf("%s has mode %o, so that cluster DNS, which runs it in pods, cannot start: chmod 755 %[1]s", self, mode)
	}
	return nil
}

// LinkIngress points the link at path to the program of the ingress controller in l, for pods to mount.
func LinkIngress(l Layout, path string) error { return link(filepath.Join(l.Root, "traefik"), path) }

// link makes path a link to target, whatever it was.
func link(target, path string) error {
	staging := filepath.Join(filepath.Dir(path), stagingPrefix+filepath.Base(path))
	if err := os.Remove(staging); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(target, staging); err != nil {
		return err
	}
	return os.Rename(staging, path)
}
