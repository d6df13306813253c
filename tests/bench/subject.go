package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
	"github.com/knarr-io/knarr/tests/lab/labinit/spec"
)

// subject is one side of the comparison.
type subject interface {
	name() string
	// host is what its hosts must have.
	host() lab.Options
	// start starts a node on an empty host and returns how long it took from the
	// first exec until the API and then the node were ready.
	start(ctx context.Context, h *lab.Host) (readyz, ready time.Duration, err error)
	// files are what a user downloads.
	files() ([]string, error)
	// onDisk is the size in MiB of all programs that a running node needs.
	onDisk(ctx context.Context, h *lab.Host) (float64, error)
}

// upstream is plain Kubernetes, one process for each component.
type upstream struct {
	dir, script string
	archives    []string
}

func (u *upstream) name() string { return "upstream" }

func (u *upstream) host() lab.Options {
	return lab.Options{Binds: []spec.Bind{{Source: u.dir, Target: "/upstream"}, {Source: u.script, Target: "/bench"}, {Source: u.archives[0], Target: "/busybox.tar"}}}
}

func (u *upstream) start(ctx context.Context, h *lab.Host) (readyz, ready time.Duration, err error) {
	out, err := h.Exec(ctx, "/bench/node", "/upstream", "/busybox.tar")
	if err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, out)
	}
	took := map[string]time.Duration{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if s, err := strconv.ParseFloat(f[1], 64); err == nil {
			took[f[0]] = time.Duration(s * float64(time.Second))
		}
	}
	if took["readyz"] == 0 || took["ready"] == 0 {
		return 0, 0, errors.New("the node did not tell its times: " + out)
	}
	return took["readyz"], took["ready"], nil
}

// files are all programs but ctr, which a node does not need.
func (u *upstream) files() ([]string, error) {
	all, err := os.ReadDir(u.dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, f := range all {
		if f.Name() != "built" && f.Name() != "ctr" {
			files = append(files, filepath.Join(u.dir, f.Name()))
		}
	}
	return files, nil
}

func (u *upstream) onDisk(context.Context, *lab.Host) (float64, error) {
	files, err := u.files()
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return 0, err
		}
		sum += float64(st.Size())
	}
	return sum / mib, nil
}

// knarr is the executable of this checkout.
type knarr struct {
	label, binary string
	args          []string
}

// alone leaves out what plain upstream does not have either.
func alone() []string {
	args := []string{"--disable-helm-controller", "--disable-network-policy"}
	for _, name := range config.PackagedComponents() {
		args = append(args, "--disable="+name)
	}
	return args
}

func (k *knarr) name() string { return k.label }

// host binds the executable instead of copying it, so that its pages are in the
// page cache of a disk for both sides.
func (k *knarr) host() lab.Options {
	return lab.Options{Binds: []spec.Bind{{Source: k.binary, Target: cluster.Program}}}
}

func (k *knarr) start(ctx context.Context, h *lab.Host) (readyz, ready time.Duration, err error) {
	s := &cluster.Server{Host: h, Program: cluster.Program, Args: k.args}
	begin := time.Now()
	if err := s.Start(); err != nil {
		return 0, 0, err
	}
	if _, err := s.WaitAPI(ctx); err != nil {
		return 0, 0, err
	}
	readyz = time.Since(begin)
	if _, err := s.WaitNode(ctx); err != nil {
		return 0, 0, err
	}
	return readyz, time.Since(begin), nil
}

func (k *knarr) files() ([]string, error) { return []string{k.binary}, nil }

func (k *knarr) onDisk(ctx context.Context, h *lab.Host) (float64, error) {
	out, err := h.Exec(ctx, "du", "-sbL", cluster.Program, cluster.DataDir+"/data")
	if err != nil {
		return 0, err
	}
	var sum float64
	for line := range strings.Lines(out) {
		n, err := strconv.ParseFloat(strings.Fields(line)[0], 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum / mib, nil
}
