package globals

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestNoiseIsWhereItIsSaidToBe fails when a new version of upstream says it
// otherwise or elsewhere. Boot, see whether it is still said, then adapt the table.
func TestNoiseIsWhereItIsSaidToBe(t *testing.T) {
	modules := []string{"k8s.io/kubernetes", "k8s.io/apiserver", "k8s.io/component-base", "k8s.io/component-helpers", "k8s.io/apimachinery", "github.com/containerd/containerd/v2", "go.etcd.io/etcd/client/v3"}
	dirs := map[string]string{}
	for _, m := range modules {
		dirs[m] = moduleDir(t, m)
	}
	for _, n := range harmless {
		if n.component == "" || n.message == "" || n.why == "" {
			t.Errorf("%+v is incomplete", n)
		}
		path, line, _ := strings.Cut(n.where, ":")
		number, err := strconv.Atoi(line)
		if err != nil {
			t.Errorf("%q: %s is no file:line", n.message, n.where)
			continue
		}
		i := slices.IndexFunc(modules, func(m string) bool { return strings.HasPrefix(path, m+"/") })
		if i < 0 {
			t.Errorf("%q: %s is in no known module", n.message, n.where)
			continue
		}
		text, err := os.ReadFile(filepath.Join(dirs[modules[i]], strings.TrimPrefix(path, modules[i])))
		if err != nil {
			t.Errorf("%q: %v", n.message, err)
			continue
		}
		lines := strings.Split(string(text), "\n")
		if number < 1 || number > len(lines) || !strings.Contains(lines[number-1], n.message) {
			t.Errorf("%q is not at %s", n.message, n.where)
		}
	}
}

func TestNoiseIsInfo(t *testing.T) {
	for _, test := range []struct {
		component, message, err string
		after                   time.Duration
		want                    slog.Level
	}{
		{component: "kube-scheduler", message: "The manifest file is empty, ignoring.", want: slog.LevelInfo},
		{component: "kubelet", message: "The manifest file is empty, ignoring.", want: slog.LevelError},
		{component: "kubelet", message: "Error updating node status, will retry", err: `patch node: call /api/v1/nodes/a: kube-apiserver is not serving`, want: slog.LevelInfo},
		{component: "kube-apiserver", message: "Failed to shutdown server: context deadline exceeded", want: slog.LevelInfo},
		{component: "kube-apiserver", message: "Failed to shutdown server: bad file descriptor", want: slog.LevelError},
		{component: "kubelet", message: "Error updating node status, will retry", err: `error getting node "a": node "a" not found`, want: slog.LevelInfo},
		{component: "kubelet", message: "Error updating node status, will retry", err: `node "a" not found`, after: earlyFor, want: slog.LevelError},
		{component: "kubelet", message: "Error updating node status, will retry", err: "connection refused", want: slog.LevelError},
		{component: "kubelet", message: "Failed cleaning pods", err: "rpc error: code = Canceled desc = context canceled", after: time.Hour, want: slog.LevelInfo},
		{component: "flannel", message: "could not watch leases: context canceled", want: slog.LevelInfo},
		{component: "kubelet", message: "Failed cleaning pods", err: "context deadline exceeded", want: slog.LevelError},
	} {
		for _, key := range []string{"err", "error"} { // klog's and logrus's
			for _, verbosity := range []int{0, 1} {
				rec := &recorder{}
				b := bridge{handler: rec, verbosity: verbosity, start: time.Now()}
				r := slog.NewRecord(b.start.Add(test.after), slog.LevelError, test.message, 0)
				if test.err != "" {
					r.AddAttrs(slog.Any(key, errors.New(test.err)))
				}
				if err := b.write(test.component, r); err != nil {
					t.Fatal(err)
				}
				got := rec.take()
				written := verbosity > 0 || test.want > slog.LevelInfo
				if written != (len(got) == 1) || written && !strings.HasPrefix(got[0], test.want.String()+" ") {
					t.Errorf("%s: %s: %s after %v, verbosity %d: got %q, want %v", test.component, test.message, test.err, test.after, verbosity, got, test.want)
				}
			}
		}
	}
}
