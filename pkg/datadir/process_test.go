package datadir

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	holdEnv  = "DATADIR_TEST_HOLD"  // TestMain: hold this data-dir until killed
	mountEnv = "DATADIR_TEST_MOUNT" // TestFileSystems: this is the child
)

func TestMain(m *testing.M) {
	if root := os.Getenv(holdEnv); root != "" {
		hold(root)
		return
	}
	os.Exit(m.Run())
}

// hold says "held" once it has the lock and lets go when its input ends.
func hold(root string) {
	lock, err := New(root).Open("v1.37.1+knarr1")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is done or gone
	_ = lock.Close()
}

func TestLockedByAnotherProcessUntilItIsKilled(t *testing.T) {
	d := New(t.TempDir())
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+d.Root())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held\n" {
		t.Fatalf("child says %q, %v", line, err)
	}
	err = openError(d, "v1.37.1+knarr1")
	want := fmt.Sprintf("data-dir %s is in use by process %d: stop that (knarr stop) or choose another with --data-dir", d.Root(), cmd.Process.Pid)
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != cmd.Process.Pid || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its error is the kill
	open(t, d, "v1.37.1+knarr1")
}

// TestLockOfADeadProcess is a server started right after kill -9, while a child
// of the killed one has not come to its exec.
func TestLockOfADeadProcess(t *testing.T) {
	d := New(t.TempDir())
	dead := exec.CommandContext(t.Context(), "true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(d.LockFile(), os.O_RDWR|os.O_CREATE, stampMode)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(held, dead.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := openError(d, "v1.37.1+knarr1"); !errors.As(err, new(*LockedError)) {
		t.Fatalf("with the lock held to the end: got %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		lock, err := d.Open("v1.37.1+knarr1")
		if err == nil {
			err = lock.Close()
		}
		opened <- err
	}()
	waitOpen(t, d.LockFile(), 2) // it has been refused, or is about to be
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// waitOpen waits until this process has path open n times.
func waitOpen(t *testing.T, path string, n int) {
	t.Helper()
	for count := 0; count < n; {
		links, err := filepath.Glob("/proc/self/fd/*")
		if err != nil || t.Context().Err() != nil {
			t.Fatal("look at the open files:", err, t.Context().Err())
		}
		count = 0
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && to == path {
				count++
			}
		}
	}
}

// TestFileSystems needs mounts, so it runs itself again in a mount namespace of
// its own, with a user namespace where the tests do not run as root.
func TestFileSystems(t *testing.T) {
	if os.Getenv(mountEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFileSystems$")
		cmd.Env = append(os.Environ(), mountEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, options string
		flags         uintptr
		exists        bool
		want          string
	}{
		{"small", "size=1m", 0, false, "no space left on device: its file system has 1024 KiB left, a server needs 32 MiB to start: free some (see df -h)"},
		{"small, exists", "size=1m", 0, true, "no space left on device"},
		{"no inodes", "size=64m,nr_inodes=4", 0, true, "its file system has no inode left: remove some files (see df -i)"},
		{"read-only", "size=64m", syscall.MS_RDONLY, false, "write to it: read-only file system: make the file system writable"},
		{"read-only, exists", "size=64m", syscall.MS_RDONLY, true, "write to it: read-only file system: make the file system writable"},
		{"fine", "size=64m", 0, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := mounted(t, c.options, c.flags, c.exists)
			err := openError(d, "v1.37.1+knarr1")
			want := c.want
			if want == "" {
				want = "opened"
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %v\nwant %s", err, want)
			}
			if _, err := os.Stat(d.Root()); c.want != "" && !c.exists && !os.IsNotExist(err) {
				t.Errorf("refused, but made the data-dir: %v", err)
			}
			if checked := d.Check("v1.37.1+knarr1"); (checked == nil) != (c.want == "") {
				t.Errorf("Check: %v", checked)
			}
		})
	}
}

// mounted is a data-dir on a file system of its own; exists makes it beforehand.
func mounted(t *testing.T, options string, flags uintptr, exists bool) Dir {
	t.Helper()
	at := t.TempDir()
	if err := syscall.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := New(filepath.Join(at, "data"))
	if exists {
		if err := os.Mkdir(d.Root(), 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(options, "nr_inodes=4") { // the root, the data-dir, two files
			for _, f := range []string{d.LockFile(), d.VersionFile()} {
				if err := os.WriteFile(f, []byte("v1.37.1+knarr1\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if flags != 0 {
		if err := syscall.Mount("", at, "", syscall.MS_REMOUNT|flags, options); err != nil {
			t.Fatal(err)
		}
	}
	return d
}
