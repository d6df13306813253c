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
	staging := filepath.Join(filepath.Dir(path), stagingPrefix+filepath.Base(path))
	if err := os.Remove(staging); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(self, staging); err != nil {
		return err
	}
	if err := os.Rename(staging, path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at knarr's own executable: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o005 != 0o005 {
		return fmt.Errorf("%s has mode %o, so that cluster DNS and ingress, which run it in pods, cannot start: chmod 755 %[1]s", self, mode)
	}
	return nil
}
