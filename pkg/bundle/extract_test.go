package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestExtract(t *testing.T) {
	b := makeBundle(t, small)
	dir := filepath.Join(t.TempDir(), "made", "data")
	old := syscall.Umask(0o077)
	l := mustExtract(t, b, dir)
	syscall.Umask(old)
	wantWhole(t, b, dir)
	for path, want := range small {
		name := filepath.Join(l.Root, path)
		if target, ok := strings.CutPrefix(want, "-> "); ok {
			if got, err := os.Readlink(name); err != nil || got != target {
				t.Errorf("%s is a link to %q (error %v), want %q", path, got, err, target)
			}
			continue
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes (error %v), want %d", path, len(got), err, len(want))
		}
	}
	if info, err := os.Stat(filepath.Join(l.Bin, "nft")); err != nil || info.Mode() != 0o755 {
		t.Errorf("bin/nft: %v, error %v, want mode 0755 through its link", info.Mode(), err)
	}
}

// A second start writes nothing and reads no file's content.
func TestExtractAgainChangesNothing(t *testing.T) {
	b := makeBundle(t, small)
	dir := t.TempDir()
	l := mustExtract(t, b, dir)
	before := mustStat(t, filepath.Join(l.Root, stampName))
	again := *b
	again.archive = "must not be needed"
	again.step = func(what string) { t.Errorf("second start: %s", what) }
	mustExtract(t, &again, dir)
	if after := mustStat(t, filepath.Join(l.Root, stampName)); !os.SameFile(before, after) {
		t.Error("second start wrote the stamp again")
	}
}

func TestExtractRepairs(t *testing.T) {
	b := makeBundle(t, small)
	in := func(l Layout, path string) string { return filepath.Join(l.Root, path) }
	rewrite := func(name, content string) error {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(content), 0); err != nil {
			return err
		}
		return os.Chtimes(name, time.Time{}, info.ModTime()) // as a careful attacker would
	}
	for _, c := range []struct {
		name   string
		damage func(l Layout) error
	}{
		{"nothing", func(Layout) error { return nil }},
		{"content of the same size and time", func(l Layout) error {
			return rewrite(in(l, "bin/runc"), strings.Repeat("runs Containers\n", 5000))
		}},
		{"file cut", func(l Layout) error { return os.Truncate(in(l, "bin/runc"), 100) }},
		{"file emptied", func(l Layout) error { return os.Truncate(in(l, "cni/cni"), 0) }},
		{"file removed", func(l Layout) error { return os.Remove(in(l, "images/x.tar")) }},
		{"mode changed", func(l Layout) error { return os.Chmod(in(l, "bin/runc"), 0o644) }},
		{"set-user-ID", func(l Layout) error { return os.Chmod(in(l, "bin/runc"), 0o755|os.ModeSetuid) }},
		{"link elsewhere", func(l Layout) error {
			return errors.Join(os.Remove(in(l, "cni/bridge")), os.Symlink("/bin/true", in(l, "cni/bridge")))
		}},
		{"link to a copy instead of the file", func(l Layout) error {
			copied := l.Root + "-runc"
			return errors.Join(os.Rename(in(l, "bin/runc"), copied), os.Symlink(copied, in(l, "bin/runc")))
		}},
		{"file instead of a link", func(l Layout) error {
			return errors.Join(os.Remove(in(l, "cni/bridge")), os.WriteFile(in(l, "cni/bridge"), nil, 0o755))
		}},
		{"directory instead of a file", func(l Layout) error {
			return errors.Join(os.Remove(in(l, "cni/cni")), os.MkdirAll(in(l, "cni/cni/x"), 0o755))
		}},
		{"file instead of a directory", func(l Layout) error {
			return errors.Join(os.RemoveAll(in(l, "bin")), os.WriteFile(in(l, "bin"), nil, 0o755))
		}},
		{"directory removed", func(l Layout) error { return os.RemoveAll(l.CNI) }},
		{"all removed", func(l Layout) error { return os.RemoveAll(l.Root) }},
		{"file instead of all", func(l Layout) error {
			return errors.Join(os.RemoveAll(l.Root), os.WriteFile(l.Root, nil, 0o644))
		}},
		{"stamp removed", func(l Layout) error { return os.Remove(in(l, stampName)) }},
		{"stamp cut", func(l Layout) error { return os.Truncate(in(l, stampName), 10) }},
		{"stamp removed and content changed", func(l Layout) error {
			return errors.Join(os.Remove(in(l, stampName)), rewrite(in(l, "cni/cni"), "PLUGINS"))
		}},
		{"stamp half written", func(l Layout) error {
			return os.WriteFile(in(l, ".knarr-tmp-12"), nil, 0o600)
		}},
		{"current removed", func(l Layout) error { return os.Remove(filepath.Join(l.Root, "../current")) }},
		{"current elsewhere", func(l Layout) error {
			name := filepath.Join(l.Root, "../current")
			return errors.Join(os.Remove(name), os.Symlink("nowhere", name))
		}},
		{"leftovers of a crash", func(l Layout) error {
			return errors.Join(
				os.MkdirAll(filepath.Join(l.Root, "../.new-1/bin"), 0o755),
				os.MkdirAll(filepath.Join(l.Root, "../.old-2/bin"), 0o755),
				os.Symlink("x", filepath.Join(l.Root, "../.new-current")))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustExtract(t, b, dir)
			if err := c.damage(l); err != nil {
				t.Fatal(err)
			}
			os.Remove(l.Root + "-never")
			mustExtract(t, b, dir)
			os.Remove(l.Root + "-runc")
			wantWhole(t, b, dir)
			// And it is settled: the next start has nothing to do.
			again := *b
			again.step = func(what string) { t.Errorf("after the repair, still: %s", what) }
			mustExtract(t, &again, dir)
		})
	}
}

// A running executable is replaced, not written to.
func TestExtractRepairsARunningExecutable(t *testing.T) {
	b := makeBundle(t, tree{"bin/shim": ownExecutable(t), "bin/x": "x"})
	dir := t.TempDir()
	l := mustExtract(t, b, dir)
	stop := startFrom(t, filepath.Join(l.Bin, "shim"))
	if err := os.Chmod(filepath.Join(l.Bin, "shim"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustExtract(t, b, dir)
	wantWhole(t, b, dir)
	stop()
}

func TestExtractOverAnEarlierBundle(t *testing.T) {
	first, second := makeBundle(t, small), makeBundle(t, tree{"bin/runc": "newer"})
	dir := t.TempDir()
	mustExtract(t, first, dir)
	mustExtract(t, second, dir)
	wantWhole(t, second, dir, first.id)
	// And back again, as after a downgrade.
	mustExtract(t, first, dir)
	wantWhole(t, first, dir, second.id)
}

func TestExtractStopsWhenAsked(t *testing.T) {
	b := makeBundle(t, small)
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("asked to stop")
	b.step = func(what string) {
		if what == "write bin/runc" {
			cancel(why)
		}
	}
	if _, err := b.Extract(ctx, dir); !errors.Is(err, why) {
		t.Errorf("Extract() = %v, want %v", err, why)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("Extract() left %v, want nothing but the lock", got)
	}
}

func TestExtractWaitsForTheLockAsLongAsWanted(t *testing.T) {
	b := makeBundle(t, small)
	dir := t.TempDir()
	unlock, err := lock(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Extract(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Extract() while another extracts = %v, want deadline exceeded", err)
	}
	unlock()
	mustExtract(t, b, dir)
	wantWhole(t, b, dir)
}

func TestExtractConcurrently(t *testing.T) {
	bundles := []*Bundle{makeBundle(t, small), makeBundle(t, tree{"bin/runc": "other"})}
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := bundles[i%2].Extract(context.Background(), dir); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	mustExtract(t, bundles[0], dir)
	wantWhole(t, bundles[0], dir, bundles[1].id)
}

// Killed before every change that it makes to the disk, in turn, extraction is
// done by the next start.
func TestExtractAfterKill(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, b *Bundle, dir string)
	}{
		{"first", func(*testing.T, *Bundle, string) {}},
		{"upgrade", func(t *testing.T, _ *Bundle, dir string) {
			mustExtract(t, makeBundle(t, tree{"bin/runc": "older"}), dir)
		}},
		{"repair", func(t *testing.T, b *Bundle, dir string) {
			l := mustExtract(t, b, dir)
			for _, name := range []string{"bin", "images/x.tar"} {
				if err := os.RemoveAll(filepath.Join(l.Root, name)); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for n := 0; ; n++ {
				b := makeBundle(t, small)
				dir := t.TempDir()
				c.damage(t, b, dir)
				killed := extractKilled(t, b, dir, n)
				mustExtract(t, b, dir)
				_, _, err := b.verify(context.Background(), filepath.Join(dir, b.id), nil)
				if err != nil {
					t.Fatal(err)
				}
				wantWhole(t, b, dir, others(t, b, dir)...)
				if !killed {
					if n < 5 {
						t.Fatalf("extraction has only %d steps", n)
					}
					return
				}
				if t.Failed() {
					t.Fatalf("after a kill at step %d", n)
				}
			}
		})
	}
}

func others(t *testing.T, b *Bundle, dir string) []string {
	t.Helper()
	ids, err := b.others(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

const (
	envExtract = "KNARR_TEST_EXTRACT" // files that the child takes its bundle from
	envWait    = "KNARR_TEST_WAIT"    // the child waits for the end of its input
)

// TestMain is also the child process of some tests.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envWait) != "":
		fmt.Println("started")
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	case os.Getenv(envNoexec) != "":
		os.Exit(noexecChild(os.Getenv(envNoexec)))
	case os.Getenv(envExtract) != "":
		os.Exit(extractChild(strings.Split(os.Getenv(envExtract), "\n")))
	}
	os.Exit(m.Run())
}

// extractChild extracts and kills itself with SIGKILL before step number n.
func extractChild(args []string) int {
	encoded, err1 := os.ReadFile(args[0])
	archive, err2 := os.ReadFile(args[1])
	n, err3 := strconv.Atoi(args[3])
	b, err4 := New(string(encoded), string(archive))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		fmt.Println(err)
		return 1
	}
	b.step = func(string) {
		if n == 0 {
			// Not a deferred call is run after this, as in a real kill.
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
		n--
	}
	if _, err := b.Extract(context.Background(), args[2]); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// extractKilled runs extractChild and reports whether it came to step n.
func extractKilled(t *testing.T, b *Bundle, dir string, n int) bool {
	t.Helper()
	encoded, err := b.files.Encode()
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	args := []string{filepath.Join(src, "manifest.json"), filepath.Join(src, "archive"), dir, strconv.Itoa(n)}
	if err := errors.Join(os.WriteFile(args[0], encoded, 0o600), os.WriteFile(args[1], []byte(b.archive), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envExtract+"="+strings.Join(args, "\n"))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child: %v\n%s", err, out)
	}
	return true
}

// ownExecutable returns this test program, a static or dynamic executable that
// runs anywhere on this machine.
func ownExecutable(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// startFrom runs a copy of this test program, which runs until stop is called.
func startFrom(t *testing.T, name string) (stop func()) {
	t.Helper()
	cmd := exec.Command(name)
	cmd.Env = append(os.Environ(), envWait+"=1")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return stop
}

func mustStat(t *testing.T, name string) os.FileInfo {
	t.Helper()
	info, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
