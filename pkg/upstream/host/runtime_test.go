package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRuntimes(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for path, mode := range map[string]os.FileMode{
		filepath.Join(first, "crun"):                        0o755,
		filepath.Join(second, "crun"):                       0o755, // later in the path
		filepath.Join(second, "youki"):                      0o644, // no program
		filepath.Join(second, "nvidia-container-runtime"):   0o755,
		filepath.Join(second, "containerd-shim-runsc-v1"):   0o755,
		filepath.Join(second, "containerd-shim-kata-v2"):    0o755,
		filepath.Join(second, "containerd-shim-spin-v2"):    0o755,
		filepath.Join(second, "containerd-shim-spin-v1"):    0o755, // of an old version
		filepath.Join(first, "containerd-shim-wasmtime-v1"): 0o711,
	} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho crun version 1.14.3\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(first, "containerd-shim-wws-v1"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, unfit := runtimesIn([]string{"", "relative", first, second, "/nonexistent"})
	want := []Runtime{
		{"crun", "crun", "io.containerd.runc.v2", first + "/crun", false, false, "1.14.3"},
		{"nvidia", "nvidia", "io.containerd.runc.v2", second + "/nvidia-container-runtime", false, false, ""},
		{"gvisor", "runsc", "io.containerd.runsc.v1", second + "/containerd-shim-runsc-v1", true, false, ""},
		{"kata", "kata", "io.containerd.kata.v2", second + "/containerd-shim-kata-v2", true, true, ""},
		{"spin", "spin", "io.containerd.spin.v2", second + "/containerd-shim-spin-v2", true, false, ""},
		{"wasmtime", "wasmtime", "io.containerd.wasmtime.v1", first + "/containerd-shim-wasmtime-v1", true, false, ""},
	}
	if len(unfit) > 0 {
		t.Errorf("unfit: %v", unfit)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Each class and each handler is a name that both Kubernetes and containerd take, and there once.
func TestKnownRuntimes(t *testing.T) {
	handlers := map[string]bool{}
	for _, r := range known() {
		if r.Class == "" || r.Type == "" || r.Program == "" || handlers[r.Handler] || r.Handler == "runc" {
			t.Errorf("%+v", r)
		}
		handlers[r.Handler] = true
	}
	if got := len(RuntimeHandlers()); got != len(known()) {
		t.Errorf("%d classes for %d runtimes", got, len(known()))
	}
}

// A crun that refuses every container is not offered; one that does not tell its version is.
func TestOldRuntime(t *testing.T) {
	for says, want := range map[string]string{
		"crun version 1.8.1":       "1.8.1; 1.14.3 or newer is needed",
		"crun version 1.14":        "1.14; 1.14.3 or newer is needed",
		"crun version 1.14.3":      "",
		"crun version 1.15":        "",
		"crun version 2":           "",
		"crun version 1.20-dirty":  "",
		"something else":           "",
		"crun version 0.20.3-1.14": "0.20.3-1.14; 1.14.3 or newer is needed",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "crun"), []byte("#!/bin/sh\necho "+says+"\necho commit: x\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		found, unfit := runtimesIn([]string{dir})
		if (len(found) == 0) != (want != "") || !strings.Contains(fmt.Sprint(unfit), want) {
			t.Errorf("%s: found %v, unfit %v", says, found, unfit)
		}
	}
}
