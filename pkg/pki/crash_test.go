package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

var errKilled = errors.New("killed")

// killer is a writeFunc that does nothing from its nth call on, as a process
// that was killed; torn makes that call leave an empty file behind, as a power
// cut may where the file was not synced.
type killer struct {
	calls int
	at    int
	torn  bool
}

func (k *killer) write(path string, data []byte, mode fs.FileMode, d durability) error {
	k.calls++
	switch {
	case k.calls < k.at:
		return writeFile(path, data, mode, d)
	case k.calls == k.at && k.torn && d == replaceable:
		return errors.Join(errKilled, os.WriteFile(path, nil, mode))
	}
	return errKilled
}

// TestKilledAtEachStep kills a first start, a renewal and a rotation before each
// write, and expects the next start to put everything right without a new CA.
func TestKilledAtEachStep(t *testing.T) {
	tests := []struct {
		name     string
		started  bool // from a data directory that is complete
		now      int  // days after the first start
		rotate   []string
		minSteps int
	}{
		{"first start", false, 0, nil, 40},
		{"renewal", true, 300, nil, len(NewPlan(testConfig("/DIR")).Leaves)},
		{"rotation", true, 1, []string{"kubelet", "scheduler"}, 6},
	}
	for _, tt := range tests {
		for _, torn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s torn=%t", tt.name, torn), func(t *testing.T) {
				now := testNow().AddDate(0, 0, tt.now)
				steps := 0
				for at := 1; ; at++ {
					c := testConfig(filepath.Join(t.TempDir(), fmt.Sprint(at)))
					if tt.started {
						mustEnsure(t, testNow(), c)
					}
					k := &killer{at: at, torn: torn}
					_, err := ensure(now, c, tt.rotate, k.write)
					if err == nil {
						break // no write was left to be killed at
					}
					if !errors.Is(err, errKilled) {
						t.Fatalf("step %d: %v", at, err)
					}
					steps++
					kept := snapshot(t, c)
					if _, err := Ensure(now, c); err != nil {
						t.Fatalf("start after a kill at step %d: %v", at, err)
					}
					verifyAll(t, now, c)
					checkShared(t, c, kept, at)
				}
				if steps < tt.minSteps {
					t.Errorf("killed at %d steps, want %d or more", steps, tt.minSteps)
				}
			})
		}
	}
}

// checkShared fails if what was there of the CAs and the service account key is
// no longer the same.
func checkShared(t *testing.T, c Config, kept map[string]string, at int) {
	t.Helper()
	after := snapshot(t, c)
	for _, file := range SharedFiles() {
		path := filepath.Join(c.DataDir, file)
		if before, there := kept[path]; there && before != after[path] {
			t.Errorf("kill at step %d: the next start replaced %s", at, file)
		}
	}
}

// TestTempFilesOfTheKilledGo leaves the temporary files of both ways of writing.
func TestTempFilesOfTheKilledGo(t *testing.T) {
	c := startedConfig(t)
	tls := filepath.Dir(c.ServiceKey())
	left := []string{filepath.Join(tls, ".knarr-tmp-123"), filepath.Join(tls, ".client-admin.crt.tmp")}
	for _, path := range left {
		spill(t, path, []byte("half a"))
	}
	remove(c.LeafPair(AdminClient).Cert)
	mustEnsure(t, testNow(), c)
	for _, path := range left {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want it gone", path, err)
		}
	}
	verifyAll(t, testNow(), c)
}
