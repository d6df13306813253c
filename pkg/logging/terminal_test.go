package logging

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal opens a real one: what is written to user can be read from machine.
func terminal(t *testing.T, columns uint16) (user, machine *os.File) {
	t.Helper()
	machine, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { machine.Close() })
	fd := int(machine.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	user, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	return user, machine
}

func TestTerminal(t *testing.T) {
	for _, test := range []struct {
		noColor string
		columns uint16
		width   int
		want    string
	}{
		{"", 100, 100, "12:00:00.005 \x1b[33mWARN \x1b[0m knarr            careful\r\n"},
		{"1", 0, 80, "12:00:00.005 WARN  knarr            careful\r\n"},
	} {
		t.Setenv("NO_COLOR", test.noColor)
		user, machine := terminal(t, test.columns)
		b := NewBoot(BootConfig{}, user)
		if !b.tty || b.width() != test.width {
			t.Errorf("a terminal is one: %v, width %d, want %d", b.tty, b.width(), test.width)
		}
		h, _, err := New(Config{}, b)
		if err != nil {
			t.Fatal(err)
		}
		if err := logAt(h, slog.LevelWarn, "careful"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 200)
		n, err := machine.Read(got)
		if err != nil {
			t.Fatal(err)
		}
		if string(got[:n]) != test.want {
			t.Errorf("NO_COLOR=%q: got %q, want %q", test.noColor, got[:n], test.want)
		}
	}
}

func TestColours(t *testing.T) {
	var b bytes.Buffer
	s := style{colour: true}
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		b.Write(s.appendHead(nil, noon, level))
	}
	if want := "\x1b[2mDEBUG\x1b[0m INFO  \x1b[33mWARN \x1b[0m \x1b[31mERROR\x1b[0m "; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	if got := string(style{stamp: stampFull}.appendHead(nil, noon.AddDate(0, 0, 1), slog.LevelInfo)); !strings.HasPrefix(got, "2026-01-03T12:00:00.005Z") {
		t.Errorf("full time: %q", got)
	}
}
