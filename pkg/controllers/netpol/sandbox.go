package netpol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/types"
)

// sandboxOf names the pod that a sandbox is of; uid is empty when the runtime does not tell it.
type sandboxOf struct {
	namespace, name string
	uid             types.UID
}

// sandbox is the network of a pod on this node.
type sandbox struct {
	ips []netip.Addr
	// links are the host's ends.
	links []string
}

// sandboxes follows the records that the CNI library (libcni/api.go, cacheAdd) makes of what it has given to pods:
// before the first container of a pod starts, while the API learns the address only after it. It stops with the
// context of run; its memory goes with it.
type sandboxes struct {
	dir     string // of the records
	changed func()

	mu      sync.Mutex
	records map[string]record // by file
}

// record is one file.
type record struct {
	of sandboxOf
	sandbox
}

// all are the sandboxes there are. A pod has two while one replaces the other: it has the addresses of both then.
func (s *sandboxes) all() map[sandboxOf]sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[sandboxOf]sandbox, len(s.records))
	for _, name := range slices.Sorted(maps.Keys(s.records)) {
		r := s.records[name]
		box := out[r.of]
		out[r.of] = sandbox{append(slices.Clip(box.ips), r.ips...), append(slices.Clip(box.links), r.links...)}
	}
	return out
}

// run follows the directory until ctx ends; it calls synced when it has read what was there.
func (s *sandboxes) run(ctx context.Context, synced func()) (err error) {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_instances if it is used up", s.dir, err)
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	if err := os.MkdirAll(s.dir, 0o700); err != nil { // libcni's own mode
		return fmt.Errorf("make the directory of CNI results: %w", err)
	}
	if err := watch.Add(s.dir); err != nil {
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_watches if it is used up", s.dir, err)
	}
	if err := s.readAll(); err != nil {
		return err
	}
	synced()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watch.Events:
			if s.read(e.Name) {
				s.changed()
			}
		case <-watch.Errors: // events were lost
			if err := s.readAll(); err != nil {
				return err
			}
			s.changed()
		}
	}
}

func (s *sandboxes) readAll() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read CNI results: %w", err)
	}
	s.mu.Lock()
	s.records = map[string]record{}
	s.mu.Unlock()
	for _, e := range entries {
		s.read(filepath.Join(s.dir, e.Name()))
	}
	return nil
}

// read takes in a file, or that it is gone, and tells whether that is news. The CNI library writes in place: half a
// file is no JSON, and the other half makes another event.
func (s *sandboxes) read(path string) bool {
	data, err := os.ReadFile(path)
	gone := errors.Is(err, fs.ErrNotExist)
	if err != nil && !gone {
		return false
	}
	r, ok := parseRecord(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.records[path]
	switch {
	case gone:
		delete(s.records, path)
		return known
	case ok:
		s.records[path] = r
	}
	return ok
}

// podLink is the interface that Kubernetes' runtimes give to pods.
const podLink = "eth0"

// parseRecord reads a record; false for what is none of a pod's own network.
func parseRecord(data []byte) (record, bool) {
	var file struct {
		IfName  string      `json:"ifName"`
		CNIArgs [][2]string `json:"cniArgs"`
		Result  struct {
			Interfaces []struct {
				Name    string `json:"name"`
				Sandbox string `json:"sandbox"`
			} `json:"interfaces"`
			IPs []struct {
				Address string `json:"address"`
			} `json:"ips"`
		} `json:"result"`
	}
	if json.Unmarshal(data, &file) != nil || file.IfName != podLink {
		return record{}, false
	}
	var r record
	for _, arg := range file.CNIArgs {
		switch arg[0] {
		case "K8S_POD_NAMESPACE":
			r.of.namespace = arg[1]
		case "K8S_POD_NAME":
			r.of.name = arg[1]
		case "K8S_POD_UID":
			r.of.uid = types.UID(arg[1])
		}
	}
	for _, ip := range file.Result.IPs {
		if p, err := netip.ParsePrefix(ip.Address); err == nil {
			r.ips = append(r.ips, p.Addr().Unmap())
		}
	}
	for _, l := range file.Result.Interfaces {
		if l.Sandbox == "" && strings.HasPrefix(l.Name, "veth") {
			r.links = append(r.links, l.Name)
		}
	}
	return r, r.of.name != "" && len(r.ips) > 0
}
