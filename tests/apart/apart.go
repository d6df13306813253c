// Package apart runs the tests of a package in namespaces of their own, so that they can make links, mounts and tables
// without touching the machine. Without root a user namespace gives the rights.
//
// It is for tests only. What the tests leave behind ends with the namespaces.
package apart

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inside is set in the process that has the namespaces.
const inside = "KNARR_TEST_INSIDE_NAMESPACES"

// Run runs the program again in new namespaces, CLONE_NEW flags, and there its tests, after prepare, which may be nil. It
// returns the exit code, for TestMain. New mounts are private.
func Run(m *testing.M, namespaces uintptr, prepare func() error) int {
	if os.Getenv(inside) != "" {
		if prepare != nil {
			if err := prepare(); err != nil {
				fmt.Fprintln(os.Stderr, "prepare the namespaces of the tests:", err)
				return 1
			}
		}
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: namespaces &^ syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		Unshareflags: namespaces & syscall.CLONE_NEWNS, // unlike Cloneflags, has the mounts made private
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, "make namespaces for the tests:", err)
		return 1
	}
	return 0
}
