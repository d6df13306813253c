// Command labinit is the pid 1 of a test host (see package lab). It arranges
// the host's mounts, then buries orphans until its standard input closes; with
// it the kernel ends every process of the host. It starts no process itself.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/lab/labinit/spec"
)

func main() {
	in := bufio.NewReader(os.Stdin)
	if err := arrange(in); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	over := make(chan struct{})
	go func() {
		// The lab writes nothing more; the read ends when it goes away.
		_, _ = io.Copy(io.Discard, in)
		close(over)
	}()
	fmt.Print(spec.Ready)
	os.Stdout.Close()
	for {
		select {
		case <-over:
			return
		case <-died:
			reap()
		}
	}
}

// arrange reads the specification and makes the host's world.
func arrange(in *bufio.Reader) error {
	// Namespaces are a thread's own: stay on the one that is unshared.
	runtime.LockOSThread()
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read specification: %w", err)
	}
	var s spec.Spec
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("decode specification: %w", err)
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	return mountAll(s)
}

// reap takes every child that has died; SIGCHLD may stand for several.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
