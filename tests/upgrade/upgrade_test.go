// Package upgrade has two servers and three agents upgraded one after the other, from an older build to the one under test,
// while a client writes and pods run. It takes minutes and is not part of .ci/run:
//
//	sudo KNARR_BIN=$PWD/dist/knarr go test ./tests/upgrade -v -timeout 20m
//
// The older build is KNARR_OLD_BIN, or else the executable under test with an older version stamp, which is what decides
// about data (pkg/datadir) and what nodes report.
package upgrade

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
)

// patience is for one step on a busy machine.
const patience = 3 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := lab.Poll(ctx, 200*time.Millisecond, try); err != nil {
		t.Fatalf("wait for %s: %v", what, err)
	}
}

// versionOf is what an executable says it is.
func versionOf(t *testing.T, h *lab.Host, program string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), program, "--version")
	must(t, err)
	words := strings.Fields(out)
	if len(words) < 3 {
		t.Fatalf("%s --version prints %q", program, out)
	}
	return words[2]
}

// older is the executable before the one under test.
func older(t *testing.T, binary, version string) string {
	t.Helper()
	if path := os.Getenv("KNARR_OLD_BIN"); path != "" {
		return path
	}
	text, err := os.ReadFile(binary)
	must(t, err)
	before := version[:len(version)-1] + "0"
	if before == version || !bytes.Contains(text, []byte(version)) {
		t.Fatalf("%s has no stamp %q that could be made older", binary, version)
	}
	path := filepath.Join(t.TempDir(), "knarr-older")
	must(t, os.WriteFile(path, bytes.ReplaceAll(text, []byte(version), []byte(before)), 0o755))
	return path
}

func TestUpgrade(t *testing.T) {
	root, err := filepath.Abs("../..")
	must(t, err)
	binary, err := cluster.Binary(root)
	must(t, err)
	l, err := lab.New(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	archives, err := images.Build(t.Context(), l.Dir())
	must(t, err)
	probe := l.Host(t, "probe", lab.Options{})
	must(t, probe.CopyIn(binary, cluster.Program, 0o755))
	to := versionOf(t, probe, cluster.Program)
	old := older(t, binary, to)
	must(t, probe.CopyIn(old, cluster.Program, 0o755))
	from := versionOf(t, probe, cluster.Program)
	t.Logf("from %s to %s", from, to)

	var all []*cluster.Server
	for _, name := range []string{"server-1", "server-2", "agent-1", "agent-2", "agent-3"} {
		all = append(all, cluster.Require(t, l, name, lab.Options{}, old, archives))
	}
	first := all[0]
	first.Args = []string{"--cluster-init"}
	must(t, first.Start())
	client, err := first.WaitNode(t.Context())
	must(t, err)
	for i, s := range all[1:] {
		role := "server"
		if i > 0 {
			role = "agent"
		}
		out, err := first.Command(t.Context(), "token", "join-command", "--role", role)
		must(t, err)
		s.Role, s.Args = role, strings.Fields(out)[2:]
		must(t, s.Start())
		reports(t, client, s, from)
	}
	runs := workload(t, client)
	w := write(t, client)
	for _, s := range all {
		began := time.Now()
		code, err := s.Stop(t.Context())
		if err != nil || code != 0 {
			t.Fatalf("%s stopped with %d, %v", s.Host.Name(), code, err)
		}
		// As install.sh does it: pods run from the file that is replaced.
		must(t, s.Host.CopyIn(binary, s.Program+".new", 0o755))
		_, err = s.Host.Exec(t.Context(), "mv", s.Program+".new", s.Program)
		must(t, err)
		must(t, s.Start())
		reports(t, client, s, to)
		eventually(t, "the pods that ran to be counted", func() error {
			if now := running(t, client); now != runs {
				return fmt.Errorf("pods were %s and are %s", runs, now)
			}
			return nil
		})
		w.goesOn(t)
		t.Logf("%s is upgraded after %.1f s", s.Host.Name(), time.Since(began).Seconds())
	}
	w.kept(t, client)
}

// reports waits until a node is Ready and says that it is of a version.
func reports(t *testing.T, c *cluster.Client, s *cluster.Server, version string) {
	t.Helper()
	eventually(t, s.Host.Name()+" to be Ready with "+version, func() error {
		n, err := c.CoreV1().Nodes().Get(t.Context(), s.Host.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if !ready || n.Status.NodeInfo.KubeletVersion != version {
			return fmt.Errorf("ready %v, version %s\n%s", ready, n.Status.NodeInfo.KubeletVersion, s.LogTail(5))
		}
		return nil
	})
}

// workload is a pod on every node.
func workload(t *testing.T, c *cluster.Client) string {
	t.Helper()
	labels := map[string]string{"app": "stays"}
	_, err := c.AppsV1().DaemonSets("default").Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "stays"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: images.Busybox, ImagePullPolicy: corev1.PullNever,
				Command: []string{"sleep", "100000"}}}},
		}},
	}, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "a pod on every node", func() error {
		if n := strings.Count(running(t, c), " "); n != 5 {
			return fmt.Errorf("%d run", n)
		}
		return nil
	})
	return running(t, c)
}

// running are the containers of the workload that run, each with when it was started.
func running(t *testing.T, c *cluster.Client) string {
	t.Helper()
	l, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=stays"})
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, p := range l.Items {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil {
				all = append(all, s.ContainerID+" "+s.State.Running.StartedAt.Format(time.TimeOnly))
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// writer makes ConfigMaps, one after the other, as long as the test runs.
type writer struct {
	mu    sync.Mutex
	acked []string
}

func write(t *testing.T, c *cluster.Client) *writer {
	w := &writer{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			name := fmt.Sprintf("written-%d", i)
			short, stop := context.WithTimeout(ctx, 5*time.Second)
			_, err := c.CoreV1().ConfigMaps("default").Create(short, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			stop()
			if err == nil { // what was not acknowledged need not be there
				w.mu.Lock()
				w.acked = append(w.acked, name)
				w.mu.Unlock()
			}
		}
	}()
	return w
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// goesOn waits until more is acknowledged.
func (w *writer) goesOn(t *testing.T) {
	t.Helper()
	before := w.count()
	eventually(t, "writes to go on", func() error {
		if w.count() < before+3 {
			return fmt.Errorf("%d are acknowledged", w.count())
		}
		return nil
	})
}

// kept checks that all that was acknowledged is there.
func (w *writer) kept(t *testing.T, c *cluster.Client) {
	t.Helper()
	l, err := c.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	have := map[string]bool{}
	for _, m := range l.Items {
		have[m.Name] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range w.acked {
		if !have[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	t.Logf("%d writes acknowledged", len(w.acked))
}
