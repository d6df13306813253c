package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/bed"
)

// fakeProc writes a proc tree with one process.
func fakeProc(t *testing.T, root, pid, stat, cmdline string) {
	t.Helper()
	dir := filepath.Join(root, pid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"stat": stat, "cmdline": cmdline} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const statTail = " 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"

func TestGetReadsNamesWithParentheses(t *testing.T) {
	root := t.TempDir()
	fakeProc(t, root, "7", "7 (a (b) c) S 3"+statTail, "shim\x00-address\x00/run/x.sock\x00")
	if err := os.Symlink("/opt/shim (deleted)", filepath.Join(root, "7", "exe")); err != nil {
		t.Fatal(err)
	}
	got, err := Table{Root: root}.Get(7)
	if err != nil {
		t.Fatal(err)
	}
	want := Process{PID: 7, PPID: 3, Start: 4242, Comm: "a (b) c", State: 'S',
		Args: []string{"shim", "-address", "/run/x.sock"}, Exe: "/opt/shim"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := (Table{Root: root}).Get(8); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent process: got %v, want fs.ErrNotExist", err)
	}
}

func TestGetRejectsDamagedStat(t *testing.T) {
	for _, stat := range []string{"", "7 no parentheses", "7 (x) S", "7 (x) S y" + statTail} {
		root := t.TempDir()
		fakeProc(t, root, "7", stat, "")
		if got, err := (Table{Root: root}).Get(7); err == nil {
			t.Errorf("stat %q: got %+v, want an error", stat, got)
		}
	}
}

func TestFlag(t *testing.T) {
	p := Process{Args: []string{"shim", "-id", "abc", "--address=/run/a", "--last"}}
	for name, want := range map[string]string{"id": "abc", "address": "/run/a", "last": "", "none": ""} {
		if got := p.Flag(name); got != want {
			t.Errorf("Flag(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestDescendants(t *testing.T) {
	all := []Process{{PID: 1}, {PID: 2, PPID: 1}, {PID: 3, PPID: 2}, {PID: 4, PPID: 1}, {PID: 5, PPID: 3}}
	var pids []int
	for _, p := range Descendants(all, all[1]) {
		pids = append(pids, p.PID)
	}
	if want := []int{3, 5}; !reflect.DeepEqual(pids, want) {
		t.Errorf("got %v, want %v", pids, want)
	}
}

// role is the variable that makes the test executable play a process that is
// there to be signalled: "polite" exits with 7 on SIGTERM, "stubborn" ignores it.
const role = "KNARR_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "polite":
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, unix.SIGTERM)
		fmt.Println("ready")
		<-asked
		os.Exit(7)
	case "stubborn":
		signal.Ignore(unix.SIGTERM)
		fmt.Println("ready")
		<-time.After(time.Hour)
	}
	os.Exit(m.Run())
}

// start runs the test executable in a role. The channel gives its exit code, -1
// for a signal, when it has ended and was reaped.
func start(t *testing.T, as string) (Process, <-chan int) {
	t.Helper()
	cmd := bed.Again(t, role+"="+as)
	code, reaped := make(chan int, 1), make(chan struct{})
	go func() {
		defer close(reaped)
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
		code <- cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		<-reaped
	})
	p, err := Table{}.Get(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p, code
}

func TestEndKillsOnlyAfterGrace(t *testing.T) {
	polite, politeCode := start(t, "polite")
	stubborn, stubbornCode := start(t, "stubborn")
	left, err := Table{}.End(context.Background(), []Process{polite, stubborn}, 300*time.Millisecond)
	if err != nil || len(left) > 0 {
		t.Fatalf("left %v, error %v", left, err)
	}
	if got := <-politeCode; got != 7 {
		t.Errorf("the polite process ended with %d, want its own 7", got)
	}
	if got := <-stubbornCode; got != -1 {
		t.Errorf("the stubborn process ended with %d, want to be killed", got)
	}
}

func TestSignalSparesReusedPID(t *testing.T) {
	p, _ := start(t, "stubborn")
	stranger := p
	stranger.Start++
	if err := (Table{}).Signal(stranger, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !(Table{}).Alive(p) {
		t.Error("a process with another start time was killed")
	}
	if (Table{}).Alive(stranger) {
		t.Error("a process that had the pid before counts as alive")
	}
}

func TestListenersNameTheHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, err := Table{}.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range all {
		if got.Network == "tcp" && got.Addr.String() == l.Addr().String() {
			if got.Owner.PID != os.Getpid() {
				t.Errorf("owner is %s, want pid %d", got.Owner, os.Getpid())
			}
			return
		}
	}
	t.Errorf("%s not among %d listeners", l.Addr(), len(all))
}

func TestParseAddr(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000000000000000000001000000:192B": "[::1]:6443",
		"00000000:0016":                         "0.0.0.0:22",
	} {
		if got, err := parseAddr(in); err != nil || got.String() != want {
			t.Errorf("parseAddr(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0100007F", "xx:1F90", "01:22", "0100007F:zz"} {
		if got, err := parseAddr(in); err == nil {
			t.Errorf("parseAddr(%q) = %v, want an error", in, got)
		}
	}
}
