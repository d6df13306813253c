package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

// TestBareHost runs on a host with nothing but a shell and coreutils.
func TestBareHost(t *testing.T) {
	s := own(t, "bare", lab.Options{Bare: true})
	e := begin(t, s)
	svc := e.startWeb(2, corev1.ServiceTypeNodePort)
	e.answers(s.Host, "http://"+svc.Spec.ClusterIP+":8080/hostname", 2)
	e.answers(s.Host, fmt.Sprintf("http://%s:%d/hostname", s.Host.Addr(), svc.Spec.Ports[0].NodePort), 2)
	p := pod("volumes", idle("main"))
	withVolume(p, "mem", "/mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
	e.startPod(p)
	e.says("volumes", "stat -fc %T /mem", "tmpfs")
	if code, err := s.Stop(t.Context()); err != nil || code != 0 {
		t.Errorf("stop: %d, %v", code, err)
	}
	if _, err := s.Command(t.Context(), "uninstall", "--yes", "--grace=5s"); err != nil {
		t.Error(err)
	}
}

// traces are what a server can leave behind on a host.
func traces(t *testing.T, h *lab.Host) map[string][]string {
	t.Helper()
	ctx := t.Context()
	found := map[string][]string{}
	for what, script := range map[string]string{
		"mounts":      "cut -d' ' -f5 /proc/1/mountinfo | sort",
		"links":       "ls /sys/class/net",
		"routes":      "ip route",
		"namespaces":  "ls /run/netns 2>/dev/null || true",
		"nft tables":  "nft list tables",
		"processes":   "ps -eo comm= | grep -vE '^(ps|sh|sort|grep)$' | sort",
		"cgroups":     "find /sys/fs/cgroup -mindepth 2 -type d | sort",
		"sockets":     "ss -Hltnu | sort",
		"run files":   "find /run ! -type d | sort",
		"directories": "ls -d /etc/knarr /var/lib/knarr /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers /run/knarr /run/flannel /run/containerd /etc/cni /opt/cni 2>/dev/null || true",
	} {
		out, err := h.Exec(ctx, "sh", "-c", script)
		must(t, err)
		for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
			found[what] = append(found[what], s.Text())
		}
	}
	found["files"] = diskFiles(t, h)
	return found
}

// diskFiles are the files that the host has of its own: on an ordinary host
// those that differ from the machine's.
func diskFiles(t *testing.T, h *lab.Host) []string {
	t.Helper()
	var files []string
	for _, dir := range []string{"root/var", "changes"} {
		err := filepath.WalkDir(filepath.Join(h.Disk(), dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				rel, _ := filepath.Rel(h.Disk(), path)
				files = append(files, rel)
			}
			return err
		})
		must(t, err)
	}
	return files
}

// missing are the items of one list that are not in another.
func missing(of, in []string) []string {
	return slices.DeleteFunc(slices.Clone(of), func(s string) bool { return slices.Contains(in, s) })
}

func TestUninstallLeavesNothing(t *testing.T) {
	s := own(t, "uninstall", lab.Options{})
	// What was there before knarr stays: files of others in places it uses.
	must(t, s.Host.WriteFile("/etc/knarr-e2e-mark", nil, 0o600))
	must(t, s.Host.WriteFile("/etc/cni/net.d/99-other.conf", []byte("{}"), 0o600))
	_, err := s.Host.Exec(t.Context(), "sh", "-c", "nft add table ip other && ip netns add other && ip link add other0 type bridge")
	must(t, err)
	_, err = s.Host.Exec(t.Context(), "rm", "-rf", "/var/lib/knarr", "/etc/knarr")
	must(t, err)
	before := traces(t, s.Host)

	for _, a := range suite.archives {
		must(t, s.Host.CopyIn(a, "/var/lib/knarr/agent/images/"+filepath.Base(a), 0o644))
	}
	e := begin(t, s)
	workload(t, e)
	p := pod("volumes", idle("main"))
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 18083}}
	withVolume(p, "mem", "/mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
	e.startPod(p)
	listed, err := s.Command(t.Context(), "uninstall", "--dry-run")
	must(t, err)
	for _, want := range []string{"/var/lib/knarr", "/var/lib/kubelet", "cni0"} {
		if !strings.Contains(listed, want) {
			t.Errorf("uninstall --dry-run does not list %s:\n%s", want, listed)
		}
	}
	if _, err := e.getPod("volumes"); err != nil {
		t.Errorf("a dry run has changed something: %v", err)
	}
	out, err := s.Command(t.Context(), "uninstall", "--yes", "--grace=5s")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Process().Wait(ctx); err != nil {
		t.Errorf("the server has not ended: %v", err)
	}
	after := traces(t, s.Host)
	for what, was := range before {
		if left := missing(after[what], was); len(left) > 0 {
			t.Errorf("%s left, %d of them: %s", what, len(left), strings.Join(left[:min(10, len(left))], ", "))
		}
		if lost := missing(was, after[what]); len(lost) > 0 {
			t.Errorf("%s lost that were there before knarr: %s", what, strings.Join(lost, ", "))
		}
	}
}

// TestInstallScript installs on a host without systemd or OpenRC, from an
// executable at hand, as a machine without internet has it.
func TestInstallScript(t *testing.T) {
	h := suite.lab.Host(t, "install", lab.Options{})
	for from, to := range map[string]string{filepath.Join(suite.root, "install.sh"): "/opt/knarr/install.sh", suite.binary: "/opt/knarr/dist/knarr"} {
		must(t, h.CopyIn(from, to, 0o755))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	install := func(env ...string) string {
		out, err := h.Run(ctx, lab.Cmd{Args: []string{"/opt/knarr/install.sh"}, Dir: "/opt/knarr", Env: append([]string{"INSTALL_KNARR_BIN=/opt/knarr/dist/knarr"}, env...)})
		if err != nil {
			t.Fatalf("install.sh: %v\n%s", err, out)
		}
		return out
	}
	install("INSTALL_KNARR_EXEC=--node-label=from=install")
	label := func() string {
		out, err := h.Exec(ctx, "knarr", "kubectl", "get", "node", "install", "-o", "jsonpath={.metadata.labels.from}")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	eventually(t, "a ready node", func() error {
		_, err := h.Exec(ctx, "knarr", "kubectl", "wait", "--for=condition=Ready", "node/install", "--timeout=10s")
		return err
	})
	if got := label(); got != "install" {
		t.Errorf("INSTALL_KNARR_EXEC was not heard: the node's label is %q", got)
	}
	// A second run keeps the options of the first.
	install()
	eventually(t, "a ready node after the second run", func() error {
		_, err := h.Exec(ctx, "knarr", "kubectl", "wait", "--for=condition=Ready", "node/install", "--timeout=10s")
		return err
	})
	// Its supervisor starts it again when it dies.
	pid := func() string {
		b, err := h.ReadFile("/var/lib/knarr/lock")
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	first := pid()
	_, err := h.Exec(ctx, "kill", "-9", first)
	must(t, err)
	eventually(t, "the supervisor to start the server again", func() error {
		if now := pid(); now == first || now == "" {
			return fmt.Errorf("its pid is %q", now)
		}
		_, err := h.Exec(ctx, "knarr", "kubectl", "get", "--raw", "/readyz")
		return err
	})
	if _, err := h.Exec(ctx, "knarr", "stop"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Exec(ctx, "knarr", "status"); exitCode(err) != 1 {
		t.Errorf("after knarr stop, status ends with %d (%v), want 1", exitCode(err), err)
	}
	if out, err := h.Exec(ctx, "knarr", "uninstall", "--yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	err = h.Do(func() error { _, err := os.Stat("/usr/local/bin/knarr"); return err })
	if !os.IsNotExist(err) {
		t.Errorf("uninstall left the executable: %v", err)
	}
}

// TestImagesImportedWhileRunning drops an archive into the running node.
func TestImagesImportedWhileRunning(t *testing.T) {
	s := own(t, "import", lab.Options{})
	_, err := s.Host.Exec(t.Context(), "rm", "-rf", "/var/lib/knarr/agent/images")
	must(t, err)
	e := begin(t, s)
	for _, a := range suite.archives {
		must(t, s.Host.CopyIn(a, "/var/lib/knarr/agent/images/"+filepath.Base(a), 0o644))
	}
	e.startPod(pod("web", web()))
	l, err := e.client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
	must(t, err)
	if len(l.Items) != 1 {
		t.Errorf("%d pods", len(l.Items))
	}
}
