package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
)

func TestWrite(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // must not matter
	tests := []struct {
		name   string
		before func(t *testing.T, path string)
	}{
		{"new file", func(*testing.T, string) {}},
		{"over a file", func(t *testing.T, path string) { mustWrite(t, path, "longer old content", 0o600) }},
		{"over a read-only file", func(t *testing.T, path string) { mustWrite(t, path, "old", 0o400) }},
		{"over a link", func(t *testing.T, path string) {
			if err := os.Symlink("elsewhere", path); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			tt.before(t, path)
			if err := Write(path, []byte("new"), 0o644); err != nil {
				t.Fatal(err)
			}
			wantFile(t, path, "new", 0o644)
			wantNames(t, filepath.Dir(path), "file")
		})
	}
}

func TestAFailedWriteChangesNothing(t *testing.T) {
	tests := []struct {
		name   string
		reader io.Reader
		want   []string
		is     error
	}{
		{"reader fails", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("link down"))), []string{"link down"}, nil},
		{"disk full", iotest.ErrReader(syscall.ENOSPC), []string{"no space left on device", "free space"}, syscall.ENOSPC},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			mustWrite(t, path, "old", 0o600)
			err := WriteReader(path, tt.reader, 0o644)
			wantError(t, err, append(tt.want, "write "+path)...)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %q is not %v", err, tt.is)
			}
			wantFile(t, path, "old", 0o600)
			wantNames(t, filepath.Dir(path), "file")
		})
	}
}

func TestWriteOverADirectoryFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, Write(path, nil, 0o644), "write "+path, "file exists")
	wantNames(t, dir, "taken")
}

func TestWriteIntoNoDirectoryFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "file")
	if err := Write(path, nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestWriteIfChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	steps := []struct {
		name    string
		before  func()
		data    string
		perm    fs.FileMode
		changed bool
	}{
		{"new", nil, "a", 0o600, true},
		{"same", nil, "a", 0o600, false},
		{"other data of the same length", nil, "b", 0o600, true},
		{"other length", nil, "bb", 0o600, true},
		{"other permissions", nil, "bb", 0o644, true},
		{"changed by someone else", func() { mustWrite(t, path, "cc", 0o644) }, "bb", 0o644, true},
		{"same again", nil, "bb", 0o644, false},
	}
	for _, s := range steps {
		if s.before != nil {
			s.before()
		}
		was, err := os.Stat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		changed, err := WriteIfChanged(path, []byte(s.data), s.perm)
		if err != nil || changed != s.changed {
			t.Errorf("%s: changed %v, error %v; want %v", s.name, changed, err, s.changed)
		}
		wantFile(t, path, s.data, s.perm)
		is, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(was, is) == s.changed {
			t.Errorf("%s: file replaced: %v, want %v", s.name, !s.changed, s.changed)
		}
	}
	wantNames(t, filepath.Dir(path), "file")
}

// Readers see one version or another, never a mixture; RemoveTemps, run all the
// while as by a starting process, does not disturb writers.
func TestConcurrentWritersReadersAndRemover(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	version := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 64<<10) }
	if err := Write(path, version(0), 0o644); err != nil {
		t.Fatal(err)
	}
	var writers, others sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		writers.Go(func() {
			for range 25 {
				if err := Write(path, version(i), 0o644); err != nil {
					t.Error(err)
				}
			}
		})
	}
	repeat := func(do func() error) {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := do(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	repeat(func() error { return RemoveTemps(dir) })
	repeat(func() error {
		got, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(got, version(int(got[0]-'a'))) {
			err = fmt.Errorf("torn file of %d bytes", len(got))
		}
		return err
	})
	writers.Wait()
	close(stop)
	others.Wait()
	wantNames(t, dir, "file")
}

func TestRemoveTemps(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{tempPrefix + "1", tempPrefix + "2", "file", ".hidden", "x" + tempPrefix} {
		mustWrite(t, filepath.Join(dir, name), "", 0o600)
	}
	if err := os.Mkdir(filepath.Join(dir, tempPrefix+"dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	live, err := createTemp(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept := []string{".hidden", tempPrefix + "dir", "file", "x" + tempPrefix}
	if err := RemoveTemps(dir); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, append(kept, filepath.Base(live.Name()))...)

	if err := live.Close(); err != nil { // as its writer is killed
		t.Fatal(err)
	}
	if err := RemoveTemps(dir); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, kept...)
}

func TestRemoveTempsOfNoDirectory(t *testing.T) {
	if err := RemoveTemps(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	mustWrite(t, file, "", 0o600)
	wantError(t, RemoveTemps(file), "look for temporary files in "+file)
}

func TestMkdirAll(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // must not matter
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.Mkdir(old, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if err := MkdirAll(filepath.Join(old, "a", "b")+"/", 0o751); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]fs.FileMode{"old": 0o700, "old/a": 0o751, "old/a/b": 0o751} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode() != want|fs.ModeDir {
			t.Errorf("%s: %v, error %v; want %v", path, info.Mode(), err, want|fs.ModeDir)
		}
	}
}

func TestMkdirAllWhereAFileIs(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, filepath.Join(dir, "file"), "", 0o600)
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"file":       syscall.ENOTDIR,
		"file/sub":   syscall.ENOTDIR,
		"dangling":   fs.ErrNotExist,
		"dangling/a": fs.ErrNotExist,
	} {
		path = filepath.Join(dir, path)
		err := MkdirAll(path, 0o755)
		wantError(t, err, "make directory "+path)
		if !errors.Is(err, want) {
			t.Errorf("%s: %q is not %v", path, err, want)
		}
	}
	wantNames(t, dir, "dangling", "file")
}

func TestAdvice(t *testing.T) {
	const path = "/var/lib/knarr/file"
	for _, a := range advice {
		err := advise(fmt.Errorf("write %s: %w", path, &fs.PathError{Op: "write", Path: path, Err: a.errno}), path)
		wantError(t, err, "write "+path, a.errno.Error(), " /var/lib/knarr")
		if !errors.Is(err, a.errno) {
			t.Errorf("%q hides %v", err, a.errno)
		}
	}
	if other := errors.New("other"); advise(other, path) != other {
		t.Error("advice for an unknown error")
	}
}

func mustWrite(t *testing.T, path, data string, perm fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), perm); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, data string, perm fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != data || info.Mode() != perm {
		t.Errorf("%s: %q, %v, error %v; want %q, %v", path, got, info.Mode(), err, data, perm)
	}
}

// wantNames checks what is in dir, in no order.
func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, e := range entries {
		got[e.Name()] = true
	}
	for _, name := range want {
		if !got[name] {
			t.Errorf("%s is missing", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s was left behind", name)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
