package bundle

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/knarr-io/knarr/pkg/bundle/manifest"
	"github.com/knarr-io/knarr/pkg/bundle/pack"
)

// tree is what a test bundle holds: content by path, where "-> x" is a link.
type tree map[string]string

var small = tree{
	"bin/runc":      strings.Repeat("runs containers\n", 5000),
	"bin/nft":       "-> launch",
	"bin/launch":    "#!/bin/sh\n",
	"bin/aux/mount": "-> ../launch",
	"cni/cni":       "plugins",
	"cni/bridge":    "-> cni",
	"images/x.tar":  "image",
	"share/empty":   "",
}

// makeBundle packs files; those in bin and cni are executable.
func makeBundle(t *testing.T, files tree) *Bundle {
	t.Helper()
	dir := t.TempDir()
	for path, content := range files {
		name := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(path, "bin/") || strings.HasPrefix(path, "cni/") {
			mode = 0o755
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, name)
		} else {
			err = os.WriteFile(name, []byte(content), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	m, err := pack.Bundle(dir, runtime.GOARCH, &archive)
	if err != nil {
		t.Fatal(err)
	}
	return newBundle(t, m, compress(t, archive.Bytes()))
}

func newBundle(t *testing.T, m manifest.Manifest, archive string) *Bundle {
	t.Helper()
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(string(encoded), archive)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compress(t *testing.T, data []byte) string {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(z.EncodeAll(data, nil))
}

func mustExtract(t *testing.T, b *Bundle, dir string) Layout {
	t.Helper()
	l, err := b.Extract(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// wantWhole checks that dir holds b as its current bundle, every file right, and
// nothing that does not belong.
func wantWhole(t *testing.T, b *Bundle, dir string, others ...string) {
	t.Helper()
	_, bad, err := b.verify(context.Background(), filepath.Join(dir, b.id), nil)
	if err != nil || len(bad) > 0 {
		t.Errorf("bundle is not whole: bad %v, error %v", bad, err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "current")); err != nil || target != b.id {
		t.Errorf("current is a link to %q (error %v), want %q", target, err, b.id)
	}
	known := map[string]bool{".lock": true, "current": true, b.id: true}
	for _, o := range others {
		known[o] = true
	}
	for _, name := range append(names(t, dir), names(t, filepath.Join(dir, b.id))...) {
		if strings.HasPrefix(name, ".") && name != ".lock" && name != stampName {
			t.Errorf("leftover %s", name)
		}
	}
	for _, name := range names(t, dir) {
		if !known[name] {
			t.Errorf("%s is in the data directory and does not belong there", name)
		}
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWithoutABundle(t *testing.T) {
	if embeddedArchive != "" {
		if _, err := Embedded(); err != nil {
			t.Errorf("Embedded() = %v, with a bundle built in", err)
		}
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	_, err := Extract(context.Background(), dir)
	if !errors.Is(err, ErrNoBundle) || !strings.Contains(err.Error(), "scripts/build") {
		t.Errorf("Extract() = %v, want ErrNoBundle, saying how to build with one", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("Extract() without a bundle made %s", dir)
	}
}

func TestLayoutPATH(t *testing.T) {
	l := layout("/d/1")
	for host, want := range map[string]string{
		"":               "/d/1/bin:/d/1/bin/aux",
		"/usr/bin":       "/d/1/bin:/usr/bin:/d/1/bin/aux",
		"/usr/bin:/bin:": "/d/1/bin:/usr/bin:/bin:/d/1/bin/aux",
	} {
		if got := l.PATH(host); got != want {
			t.Errorf("PATH(%q) = %q, want %q", host, got, want)
		}
	}
}

// The layout under the lasting path is the one that was extracted.
func TestCurrent(t *testing.T) {
	b := makeBundle(t, small)
	dir := t.TempDir()
	l := mustExtract(t, b, dir)
	for there, current := range map[string]string{l.Bin: Current(dir).Bin, l.Aux: Current(dir).Aux, l.CNI: Current(dir).CNI, l.Images: Current(dir).Images} {
		if got, err := filepath.EvalSymlinks(current); err != nil || got != there {
			t.Errorf("%s is %s (error %v), want %s", current, got, err, there)
		}
	}
}

// The scripts build the images under the names that the program uses.
func TestImagesAreTheOnesBuilt(t *testing.T) {
	data, err := os.ReadFile("../../scripts/versions")
	if err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[string]string{"PAUSE_IMAGE": PauseImage, "BASE_IMAGE": BaseImage} {
		m := regexp.MustCompile(`(?m)^` + variable + `=(\S+)$`).FindSubmatch(data)
		if m == nil || string(m[1]) != want {
			t.Errorf("scripts/versions builds the image %q, the program wants %q", m, want)
		}
	}
}

func TestDamagedEmbeddedBundle(t *testing.T) {
	whole := makeBundle(t, small)
	other := makeBundle(t, tree{"bin/runc": "another", "bin/z": "z"})
	swapped := makeBundle(t, tree{"bin/runc": strings.Repeat("runs Containers\n", 5000)})
	for name, archive := range map[string]string{
		"empty":           "",
		"cut":             whole.archive[:len(whole.archive)/2],
		"not compressed":  "no archive at all",
		"another bundle":  other.archive,
		"another content": swapped.archive,
	} {
		t.Run(name, func(t *testing.T) {
			b := *whole
			if name == "another content" {
				b.files.Files = b.files.Files[:0:0]
				for _, f := range whole.files.Files {
					if f.Path == "bin/runc" {
						b.files.Files = append(b.files.Files, f)
					}
				}
			}
			b.archive = archive
			dir := t.TempDir()
			if _, err := b.Extract(context.Background(), dir); err == nil {
				t.Fatal("Extract() accepted it")
			}
			if got := names(t, dir); len(got) != 1 || got[0] != ".lock" {
				t.Errorf("Extract() left %v, want nothing but the lock", got)
			}
		})
	}
}
