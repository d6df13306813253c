//go:build amd64

// Package quota_test has pkg/quota enforced by a kernel that can: many are built without project quotas, and then nothing
// could be tested. So the checks run in a User-Mode Linux, an ordinary program, as its first process.
//
// They need root, linux.uml, mkfs.xfs and mkfs.ext4 (Debian: user-mode-linux, xfsprogs, e2fsprogs), and amd64, the only
// architecture that User-Mode Linux is packaged for.
package quota_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// bootLimit is generous: a start takes two seconds.
const bootLimit = 3 * time.Minute

func TestEnforced(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "inside")
	command(t, "go", "build", "-o", inside, "./inside")
	disks := []string{filepath.Join(dir, "ext4.img"), filepath.Join(dir, "xfs.img")}
	for _, disk := range disks {
		f, err := os.Create(disk)
		if err == nil {
			err = f.Truncate(400 << 20)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", disks[0])
	command(t, "mkfs.xfs", "-q", disks[1])

	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	kernel := exec.CommandContext(ctx, "linux.uml", "mem=256M", "rootfstype=hostfs", "rootflags=/", "root=/dev/root", "ro", "quiet",
		"init="+inside, "ubda="+disks[0], "ubdb="+disks[1], "con=null", "con0=fd:0,fd:1", "uml_dir="+dir)
	kernel.Env = append(os.Environ(), "TMPDIR="+dir) // where the kernel keeps its memory
	out, err := kernel.CombinedOutput()
	said := regexp.MustCompile(`(?m)^(ok|FAIL): .*`).FindAllString(strings.ReplaceAll(string(out), "\r", ""), -1)
	for _, line := range said {
		t.Log(line)
	}
	if want := "ok: all"; err != nil || len(said) == 0 || said[len(said)-1] != want {
		t.Fatalf("the checks did not end with %q: %v\n%s", want, err, out)
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}
