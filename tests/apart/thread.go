package apart

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// OnThread runs f on a thread of its own that ends with f, whatever f did to the thread's namespaces. It never runs on the
// main thread: that one cannot end, and the process's /proc/self speaks of it.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the main thread, the next cannot get it.
			done <- OnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// NewNetwork makes a network namespace. It lasts until the handle is closed and nothing else is in it.
func NewNetwork() (network netns.NsHandle, err error) {
	err = OnThread(func() error {
		if network, err = netns.New(); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return nil
	})
	return network, err
}

// InNetwork runs f, which must not hand to other goroutines what is to happen there, in a network namespace.
func InNetwork(network netns.NsHandle, f func() error) error {
	return OnThread(func() error {
		if err := netns.Set(network); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}
