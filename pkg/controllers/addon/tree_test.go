package addon

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Time is given here, so nothing waits.
func TestTreeSettles(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1000, 0)
	tr := newTree(dir)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	scan := func(after time.Duration, again time.Duration, size int64) {
		t.Helper()
		now = now.Add(after)
		due, err := tr.scan(now)
		if err != nil {
			t.Fatal(err)
		}
		if want := now.Add(again); again > 0 && !due.Equal(want) || again == 0 && !due.IsZero() {
			t.Errorf("scan again at %v, want after %v", due, again)
		}
		if got := tr.settled()["a.yaml"].size; got != size {
			t.Errorf("size %d counts, want %d", got, size)
		}
	}
	write("1")
	scan(0, 0, 1) // what was there counts at once
	write("22")
	scan(time.Second, settleWritten, 1)
	write("333")
	scan(settleWritten/2, settleWritten, 1)
	scan(settleWritten, 0, 3)
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	scan(time.Hour, settleRemoved, 3)
	write("4444") // it was only replaced
	scan(settleRemoved/2, settleWritten, 3)
	scan(settleWritten, 0, 4)
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	scan(0, settleRemoved, 4)
	scan(settleRemoved, 0, 0)
}
