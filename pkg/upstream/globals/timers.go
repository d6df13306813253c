package globals

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// exact is the slack that the kernel starts its first process with.
const exact = 50 * time.Microsecond

// CoalesceTimers lets the kernel put off what the process sleeps for by up to slack, to wake it once for many timers
// (PR_SET_TIMERSLACK(2const)). Upstream's components keep some three hundred tickers of a second or less, each with a
// phase of its own; every one of them would wake a thread. What wakes the process otherwise, a packet or a finished
// read, is served as fast as before, and so are timers while it is busy.
//
// Threads started later inherit the slack, and so do other programs: whoever starts one that is to keep time sets its
// own (scripts/helpers/c/launch.c). The error is for the log: nothing depends on it.
func CoalesceTimers(slack time.Duration) error {
	value := []byte(strconv.FormatInt(slack.Nanoseconds(), 10))
	// A thread may be started by one that was not reached yet: go on until a round finds none.
	for done := map[string]bool{}; ; {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		before := len(done)
		for _, task := range tasks {
			id := task.Name()
			if done[id] {
				continue
			}
			done[id] = true
			// It is a file of threads, though only processes are listed in /proc (fs/proc/base.c, tgid_base_stuff).
			err := os.WriteFile(filepath.Join("/proc", id, "timerslack_ns"), value, 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // not: ended meanwhile
				return fmt.Errorf("set timer slack: %w", err)
			}
		}
		if len(done) == before {
			return nil
		}
	}
}

// ExactTimers undoes [CoalesceTimers] for the calling thread, and so for a program that it executes in its place.
func ExactTimers() error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(exact), 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	return nil
}
