package seal

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func sealed(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for part := range bytes.SplitAfterSeq(content, []byte{'\n'}) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestEveryBitCounts flips each bit of a file, cuts it everywhere and adds to it.
func TestEveryBitCounts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	check := func(data []byte) error {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return Check(name)
	}
	good := sealed(t, []byte("one\ntwo\n"))
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if err := check(bad); !errors.Is(err, ErrBroken) {
				t.Errorf("byte %d, bit %d: %v", i, bit, err)
			}
		}
		if err := check(good[:i]); !errors.Is(err, ErrBroken) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if err := check(append(bytes.Clone(good), 0)); !errors.Is(err, ErrBroken) {
		t.Errorf("one byte more: %v", err)
	}
	if err := Check(name + "-missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestZstdPassesOverIt(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := zstd.NewReader(bytes.NewReader(sealed(t, z.EncodeAll([]byte("content"), nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOpenReturnsTheContent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	content := strings.Repeat("x", 1<<17)
	if err := os.WriteFile(name, sealed(t, []byte(content)), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != content {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
