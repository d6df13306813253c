package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const envNoexec = "KNARR_TEST_NOEXEC" // where the child mounts a file system noexec

func TestExtractToNoexec(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envNoexec+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	for _, part := range []string{"mounted noexec", dir, "--data-dir"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("Extract() said %q, without %q", out, part)
		}
	}
}

// noexecChild, in a mount namespace of its own, prints what Extract says of a
// file system mounted noexec, and fails if it wrote there.
func noexecChild(dir string) int {
	data := filepath.Join(dir, "data")
	err := errors.Join(
		syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOEXEC, "size=1m"),
		os.Mkdir(data, 0o755))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	b := &Bundle{id: "x", step: func(string) {}}
	_, err = b.Extract(context.Background(), data)
	fmt.Println(err)
	if entries, e := os.ReadDir(data); e != nil || len(entries) > 0 {
		fmt.Println("it wrote", entries, e)
		return 1
	}
	return 0
}
