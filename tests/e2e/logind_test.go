package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

const (
	busSocket   = "/run/dbus/system_bus_socket"
	loginPath   = "/org/freedesktop/login1"
	loginName   = "org.freedesktop.login1"
	loginFace   = "org.freedesktop.login1.Manager"
	systemdPath = "/org/freedesktop/systemd1"
	systemdName = "org.freedesktop.systemd1"
	systemdFace = "org.freedesktop.systemd1.Manager"
	// delayFile is where the kubelet asks logind for more time.
	delayFile = "/etc/systemd/logind.conf.d/99-kubelet.conf"
)

// busConfig is a system bus on which everybody may do anything.
const busConfig = `<busconfig><type>system</type><listen>unix:path=` + busSocket + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`

// logind is what systemd-logind and systemd are to the kubelet: they let a shutdown of the host be delayed, for as long as
// their configuration says, and announce it. It speaks on a host's system bus.
type logind struct {
	host *lab.Host
	conn *dbus.Conn

	mu    sync.Mutex
	delay time.Duration
	locks []*inhibitor
}

// inhibitor is somebody's wish to delay something, for as long as they hold one end of a pipe.
type inhibitor struct {
	what, who, mode string
	ours, theirs    *os.File
}

// runLogind starts a system bus on a host and is its logind, with logind's own default of five seconds.
func runLogind(t *testing.T, h *lab.Host) *logind {
	t.Helper()
	must(t, h.WriteFile("/run/dbus/bus.conf", []byte(busConfig), 0o644))
	_, err := h.Exec(t.Context(), "mkdir", "-p", "/run/systemd/seats")
	must(t, err)
	_, err = h.Start(lab.Cmd{Args: []string{"dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile"}})
	must(t, err)
	l := &logind{host: h, delay: 5 * time.Second}
	eventually(t, "the system bus", func() error {
		return h.Do(func() error {
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: busSocket, Net: "unix"})
			if err != nil {
				return err
			}
			l.conn, err = dbus.ConnectUnix(c)
			return err
		})
	})
	t.Cleanup(func() { must(t, l.conn.Close()) })
	for _, e := range []struct {
		methods    map[string]any
		path, face string
	}{
		{map[string]any{"Inhibit": l.inhibit}, loginPath, loginFace},
		{map[string]any{"Get": l.get}, loginPath, "org.freedesktop.DBus.Properties"},
		{map[string]any{"KillUnit": l.kill}, systemdPath, systemdFace},
	} {
		must(t, l.conn.ExportMethodTable(e.methods, dbus.ObjectPath(e.path), e.face))
	}
	for _, name := range []string{loginName, systemdName} {
		got, err := l.conn.RequestName(name, dbus.NameFlagDoNotQueue)
		if err != nil || got != dbus.RequestNameReplyPrimaryOwner {
			t.Fatalf("own %s on the bus: %v, %v", name, got, err)
		}
	}
	return l
}

// inhibit is a call of logind's.
func (l *logind) inhibit(what, who, _, mode string) (dbus.UnixFD, *dbus.Error) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.locks = append(l.locks, &inhibitor{what, who, mode, ours, theirs})
	return dbus.UnixFD(theirs.Fd()), nil
}

// get is logind's one property that counts.
func (l *logind) get(_, name string) (dbus.Variant, *dbus.Error) {
	if name != "InhibitDelayMaxUSec" {
		return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("unknown property %s", name))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return dbus.MakeVariant(uint64(l.delay / time.Microsecond)), nil
}

// kill is a call of systemd's: the signal that has logind read its configuration again.
func (l *logind) kill(unit, _ string, signal int32) *dbus.Error {
	conf, err := l.host.ReadFile(delayFile)
	found := regexp.MustCompile(`(?m)^InhibitDelayMaxSec=(\d+)$`).FindSubmatch(conf)
	if unit != "systemd-logind.service" || signal != 1 || err != nil || found == nil {
		return dbus.MakeFailedError(fmt.Errorf("signal %d to %s with %q, %w", signal, unit, conf, err))
	}
	seconds, err := strconv.Atoi(string(found[1]))
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = time.Duration(seconds) * time.Second
	return nil
}

// held waits until a process has the inhibitor that was taken last.
func (l *logind) held(t *testing.T, pid int) *inhibitor {
	t.Helper()
	var lock *inhibitor
	eventually(t, "an inhibitor", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.locks) == 0 {
			return errors.New("none was taken")
		}
		lock = l.locks[len(l.locks)-1]
		return has(pid, lock.theirs)
	})
	must(t, lock.theirs.Close()) // theirs alone from now on
	t.Cleanup(func() { must(t, lock.ours.Close()) })
	if got := fmt.Sprint(lock.what, " ", lock.who, " ", lock.mode); got != "shutdown kubelet delay" {
		t.Errorf("the inhibitor is %q", got)
	}
	return lock
}

// has tells whether a process has a file open.
func has(pid int, f *os.File) error {
	const open = "/proc/%d/fd/"
	want, err := os.Readlink(fmt.Sprintf(open+"%d", os.Getpid(), f.Fd()))
	if err != nil {
		return err
	}
	dir := fmt.Sprintf(open, pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if link, err := os.Readlink(dir + e.Name()); err == nil && link == want {
			return nil
		}
	}
	return fmt.Errorf("process %d does not have %s", pid, want)
}

// released waits until nobody holds it any more.
func (i *inhibitor) released() error {
	if err := i.ours.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := i.ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the inhibitor to be released: %w", err)
	}
	return nil
}

// announce says that the host is about to go down, or not to after all.
func (l *logind) announce(t *testing.T, down bool) {
	t.Helper()
	must(t, l.conn.Emit(loginPath, loginFace+".PrepareForShutdown", down))
}

// TestShutdownWithLogind has the host of a node go down where systemd-logind is: the kubelet delays it until the pods have
// ended, the less important first. When it is called off the node goes on, ready for the next time.
func TestShutdownWithLogind(t *testing.T) {
	s := own(t, "logind", lab.Options{})
	l := runLogind(t, s.Host)
	s.Args = []string{"--disable", unneeded}
	j := &joined{env: begin(t, s), agent: s}
	lock := l.held(t, s.Process().PID())
	if v, err := l.get(loginFace, "InhibitDelayMaxUSec"); err != nil || v.Value() != uint64(60e6) {
		t.Errorf("logind waits for %v µs, %v; want a minute", v, err)
	}
	for name, class := range map[string]string{"officer": "system-node-critical", "hand": ""} {
		j.startPod(j.diary(name, class))
	}

	l.announce(t, true)
	must(t, lock.released())
	if got, want := j.book(), "hand hook, hand term, officer hook, officer term"; got != want {
		t.Errorf("the pods ended as %q, want %q\n%s", got, want, s.LogTail(20))
	}
	for _, name := range []string{"officer", "hand"} {
		if p := j.podEnds(name); !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet
		}) {
			t.Errorf("pod %s does not say why it ended: %+v", name, p.Status.Conditions)
		}
	}
	j.eventually("the node to say that it goes down", func() error { return j.readyAs(corev1.ConditionFalse, "node is shutting down") })

	l.announce(t, false)
	j.eventually("knarr to have started again", func() error {
		if n := strings.Count(s.Log(), "Ready in "); n != 2 {
			return fmt.Errorf("it has %d times", n)
		}
		return nil
	})
	j.mustKubectl("delete", "pod", "officer", "hand", "--wait=false")
	j.startPod(pod("later", idle("main")))
	lock = l.held(t, s.Process().PID())
	l.announce(t, true)
	must(t, lock.released())
	j.podEnds("later")
}

// readyAs tells whether the agent's node is Ready or not, for a reason.
func (j *joined) readyAs(want corev1.ConditionStatus, message string) error {
	n, err := j.client.CoreV1().Nodes().Get(j.ctx, j.agent.Host.Name(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == want && strings.Contains(c.Message, message) {
			return nil
		}
	}
	return fmt.Errorf("conditions %v", n.Status.Conditions)
}
