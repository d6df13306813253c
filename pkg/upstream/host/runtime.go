package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Runtime is a container runtime that is installed on the host, beside knarr's own runc.
type Runtime struct {
	// Class is the name of its RuntimeClass, and Handler what containerd calls it.
	Class, Handler string
	// Type is containerd's name for the kind of shim.
	Type string
	// Program is the absolute path of the shim or, for those that knarr's own shim drives, of the OCI runtime.
	Program string
	// OwnShim tells that Program is a shim.
	OwnShim bool
	// Machine tells that containers run in a virtual machine of their own.
	Machine bool
	// least is the oldest version that can run what containerd asks for; "" when any can.
	least string
}

// HasOwnShims tells that containers may be started by programs other than knarr's own shim.
func (h Host) HasOwnShims() bool {
	return slices.ContainsFunc(h.Runtimes, func(r Runtime) bool { return r.OwnShim })
}

const runcShim = "io.containerd.runc.v2"

// leastCrun: those before refuse containers of the OCI runtime specification 1.2, and so all of containerd 2's, with
// "unknown version specified" (https://github.com/containers/crun/pull/1431).
const leastCrun = "1.14.3"

// known are the runtimes that are looked for. Classes and handlers are k3s's where it has them; so are the places.
func known() []Runtime {
	return []Runtime{
		{Class: "crun", Handler: "crun", Type: runcShim, Program: "crun", least: leastCrun},
		{Class: "youki", Handler: "youki", Type: runcShim, Program: "youki"},
		{Class: "nvidia", Handler: "nvidia", Type: runcShim, Program: "nvidia-container-runtime"},
		{Class: "nvidia-cdi", Handler: "nvidia-cdi", Type: runcShim, Program: "nvidia-container-runtime.cdi"},
		{Class: "nvidia-experimental", Handler: "nvidia-experimental", Type: runcShim, Program: "nvidia-container-runtime-experimental"},
		{Class: "gvisor", Handler: "runsc", Type: "io.containerd.runsc.v1", Program: "containerd-shim-runsc-v1", OwnShim: true},
		{Class: "kata", Handler: "kata", Type: "io.containerd.kata.v2", Program: "containerd-shim-kata-v2", OwnShim: true, Machine: true},
		{Class: "lunatic", Handler: "lunatic", Type: "io.containerd.lunatic.v1", Program: "containerd-shim-lunatic-v1", OwnShim: true},
		{Class: "slight", Handler: "slight", Type: "io.containerd.slight.v1", Program: "containerd-shim-slight-v1", OwnShim: true},
		{Class: "spin", Handler: "spin", Type: "io.containerd.spin.v2", Program: "containerd-shim-spin-v2", OwnShim: true},
		{Class: "wws", Handler: "wws", Type: "io.containerd.wws.v1", Program: "containerd-shim-wws-v1", OwnShim: true},
		{Class: "wasmedge", Handler: "wasmedge", Type: "io.containerd.wasmedge.v1", Program: "containerd-shim-wasmedge-v1", OwnShim: true},
		{Class: "wasmer", Handler: "wasmer", Type: "io.containerd.wasmer.v1", Program: "containerd-shim-wasmer-v1", OwnShim: true},
		{Class: "wasmtime", Handler: "wasmtime", Type: "io.containerd.wasmtime.v1", Program: "containerd-shim-wasmtime-v1", OwnShim: true},
	}
}

// RuntimeHandlers are the handlers of all the classes that a node may offer.
func RuntimeHandlers() map[string]string {
	handlers := map[string]string{}
	for _, r := range known() {
		handlers[r.Class] = r.Handler
	}
	return handlers
}

// runtimePlaces are where runtimes are installed outside of PATH: by NVIDIA's operator, by kwasm and by Kata.
func runtimePlaces() []string {
	return []string{"/usr/local/nvidia/toolkit", "/opt/kwasm/bin", "/opt/kata/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// runtimesIn looks in directories; the first that has a program counts. The second result says which runtimes are
// there but of no use, and why.
func runtimesIn(dirs []string) (found []Runtime, unfit []string) {
	for _, r := range known() {
		at := slices.IndexFunc(dirs, func(dir string) bool { return filepath.IsAbs(dir) && executable(filepath.Join(dir, r.Program)) })
		if at < 0 {
			continue
		}
		r.Program = filepath.Join(dirs[at], r.Program)
		if v := version(r); r.least != "" && older(v, r.least) {
			unfit = append(unfit, fmt.Sprintf("%s is of version %s; %s or newer is needed", r.Program, v, r.least))
			continue
		}
		found = append(found, r)
	}
	return found, unfit
}

// version is what a program says that its version is; "" when it is not known or does not matter.
func version(r Runtime) string {
	if r.least == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, r.Program, "--version").Output()
	if err != nil { // then it is for containerd to find out
		return ""
	}
	words := strings.Fields(string(out)) // crun version 1.8.1
	if at := slices.Index(words, "version"); at >= 0 && at+1 < len(words) {
		return words[at+1]
	}
	return ""
}

// older compares versions number by number; what is no number ends the comparison.
func older(v, least string) bool {
	have, want := strings.Split(v, "."), strings.Split(least, ".")
	for i, w := range want {
		if i >= len(have) {
			return v != ""
		}
		a, errA := strconv.Atoi(have[i])
		b, errB := strconv.Atoi(w)
		if errA != nil || errB != nil {
			return false
		}
		if a != b {
			return a < b
		}
	}
	return false
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
