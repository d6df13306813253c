package globals

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// occupyThread holds a thread until release is closed.
func occupyThread(started, release chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	close(started)
	<-release
}

// TestCoalesceTimers changes the threads of a child, not of the test: others are measured by these.
func TestCoalesceTimers(t *testing.T) {
	if os.Getenv("KNARR_TEST_SLACK") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCoalesceTimers$", "-test.v")
		cmd.Env = append(os.Environ(), "KNARR_TEST_SLACK=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "threads checked") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	// Threads of the runtime come and go: make some that stay.
	const busy = 8
	release := make(chan struct{})
	defer close(release)
	for range busy {
		started := make(chan struct{})
		go occupyThread(started, release)
		<-started
	}
	if err := CoalesceTimers(20 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks) < busy {
		t.Fatalf("%d threads, want %d at least", len(tasks), busy)
	}
	for _, task := range tasks {
		got, err := os.ReadFile(filepath.Join("/proc", task.Name(), "timerslack_ns"))
		if err == nil && string(got) != "20000000\n" {
			t.Errorf("thread %s has a timer slack of %q", task.Name(), got)
		}
	}
	t.Log("threads checked")
	out, err := exec.Command("cat", "/proc/self/timerslack_ns").Output()
	if err != nil || string(out) != "20000000\n" {
		t.Errorf("a child has a timer slack of %q, error %v: no need to reset it any more?", out, err)
	}
	runtime.LockOSThread()
	if err := ExactTimers(); err != nil {
		t.Fatal(err)
	}
	out, err = exec.Command("cat", "/proc/self/timerslack_ns").Output()
	if err != nil || string(out) != "50000\n" {
		t.Errorf("a child of a thread with exact timers has a timer slack of %q, error %v", out, err)
	}
}
