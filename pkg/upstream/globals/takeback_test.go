package globals

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// takers are calls that would take a log away from the one handler.
var takers = regexp.MustCompile(`\bklog\.(SetLogger|SetSlogLogger|SetOutput|SetLoggerWithOptions|ClearLogger|StartFlushDaemon|EnableContextualLogging)\(|` +
	`\blogs\.InitLogs\(|\b(logsapi|logs)\.ValidateAndApply\w*\(|\blog\.(SetOutput|SetFlags|SetFormat|SetLevel)\(|` +
	`\blogrus\.(Set\w+|AddHook)\(|\bgrpclog\.SetLogger\w*\(|\botel\.SetErrorHandler\(|\bslog\.SetDefault\(|\bSetDefaultWarningHandler\w*\(`)

// hints are parts of what takers matches: to look for them first saves seconds.
var hints = [][]byte{[]byte("klog.Set"), []byte("klog.ClearLogger"), []byte("FlushDaemon"), []byte("ContextualLogging("),
	[]byte("InitLogs"), []byte("ValidateAndApply"), []byte("log.Set"), []byte("logrus."), []byte("SetErrorHandler"), []byte("SetDefault")}

// scanned are the modules of which knarr runs something, with the directories in
// question.
var scanned = map[string][]string{
	"k8s.io/kubernetes": {"cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kube-scheduler", "cmd/kubelet", "cmd/kube-proxy", "pkg", "plugin"},
	"k8s.io/apiserver":  {"pkg"}, "k8s.io/component-base": {"."}, "k8s.io/client-go": {"."},
	"k8s.io/controller-manager": {"."}, "k8s.io/cloud-provider": {"."}, "k8s.io/cri-client": {"."},
	"github.com/containerd/containerd/v2": {"cmd/containerd", "core", "plugins", "internal", "client", "pkg"},
	"github.com/flannel-io/flannel":       {"pkg"},
}

// tamed says of each file with such a call why it does not take a log away.
var tamed = map[string]string{
	"k8s.io/kubernetes/cmd/kube-apiserver/app/server.go":                            "in RunE, which knarr does not call",
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/controllermanager.go":        "in RunE, which knarr does not call",
	"k8s.io/kubernetes/cmd/kube-scheduler/app/server.go":                            "in runCommand, which knarr does not call",
	"k8s.io/kubernetes/cmd/kubelet/app/server.go":                                   "in RunE, which knarr does not call",
	"k8s.io/kubernetes/cmd/kube-proxy/app/server.go":                                "in RunE, which knarr does not call",
	"k8s.io/kubernetes/pkg/controlplane/apiserver/samples/generic/server/server.go": "a sample that is not linked",
	"k8s.io/apiserver/pkg/storage/etcd3/logger.go":                                  "in init, so before Apply",
	"k8s.io/client-go/rest/warnings.go":                                             "the function itself",
	"k8s.io/component-base/cli/run.go":                                              "in Run of cobra commands, which knarr does not call",
	"k8s.io/component-base/logs/logs.go":                                            "in InitLogs, which nobody calls",
	"k8s.io/component-base/logs/api/v1/options.go":                                  "in ValidateAndApply, which nobody calls",
	"k8s.io/component-base/logs/api/v1/options_slog.go":                             "in ValidateAndApply, which nobody calls",
	"k8s.io/component-base/logs/example/cmd/logger.go":                              "an example that is not linked",
	"k8s.io/component-base/logs/example/k8s2slog/k8s2slog.go":                       "an example that is not linked",
	"k8s.io/component-base/logs/example/slog2k8s/slog2k8s.go":                       "an example that is not linked",
	"k8s.io/component-base/logs/example/stdlib/logger.go":                           "an example that is not linked",
	"k8s.io/cloud-provider/app/controllermanager.go":                                "in RunE, which knarr does not call",
	"k8s.io/cloud-provider/app/testing/testserver.go":                               "for tests",
	"github.com/containerd/containerd/v2/cmd/containerd/command/main.go":            "in the command, which knarr does not link",
	"github.com/containerd/containerd/v2/cmd/containerd/command/main_windows.go":    "Windows",
	"github.com/containerd/containerd/v2/cmd/containerd/command/service_windows.go": "Windows",
	"github.com/containerd/containerd/v2/pkg/shim/shim.go":                          "in the shim, another process",
}

// TestUpstreamTakesNothingBack fails when a new version of upstream has a new place
// that sets a global log. Look at it, then adapt the adapter or the table.
func TestUpstreamTakesNothingBack(t *testing.T) {
	found := map[string]bool{}
	for module, dirs := range scanned {
		root := moduleDir(t, module)
		for _, dir := range dirs {
			err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
					return nil
				}
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(hints, func(h []byte) bool { return bytes.Contains(text, h) }) {
					return nil
				}
				for line := range bytes.Lines(text) {
					if code, _, _ := bytes.Cut(line, []byte("//")); takers.Match(code) {
						below, err := filepath.Rel(root, path)
						if err != nil {
							return err
						}
						found[module+"/"+filepath.ToSlash(below)] = true
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(found)) {
		if tamed[path] == "" {
			t.Errorf("%s sets a global log", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(tamed)) {
		if !found[path] {
			t.Errorf("%s sets no global log any more; take it out of the table", path)
		}
	}
}

func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("find module %s: %v", module, err)
	}
	return strings.TrimSpace(string(out))
}
