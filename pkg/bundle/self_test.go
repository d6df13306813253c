package bundle

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLinkSelf(t *testing.T) {
	link := filepath.Join(t.TempDir(), "exe")
	// Whatever an earlier or killed process left is replaced.
	for _, left := range []string{"", link, filepath.Join(filepath.Dir(link), stagingPrefix+"exe")} {
		if left != "" {
			if err := os.Remove(left); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if err := os.Symlink("nowhere", left); err != nil {
				t.Fatal(err)
			}
		}
		if err := LinkSelf(link); err != nil {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(link); err != nil || got != self {
			t.Errorf("link leads to %q (%v), want %q", got, err, self)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(link)); err != nil || len(entries) != 1 {
		t.Errorf("%d entries are left (%v), want the link alone", len(entries), err)
	}
}

func TestLinkSelfWhereItCannot(t *testing.T) {
	if err := LinkSelf(filepath.Join(t.TempDir(), "missing", "exe")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

func TestLinkIngress(t *testing.T) {
	root := t.TempDir()
	program, link := filepath.Join(root, "traefik"), filepath.Join(root, "link")
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := LinkIngress(layout(root), link); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(link); err != nil || string(data) != "program" {
			t.Errorf("the link leads to %q (%v), want the program", data, err)
		}
	}
}
