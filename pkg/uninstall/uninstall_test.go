package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/process"
)

// write makes files below root; a name ending in "/" is a directory, a content
// beginning with "->" a link.
func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		dir := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			dir = path
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch target, link := strings.CutPrefix(content, "->"); {
		case strings.HasSuffix(name, "/"):
		case link:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree lists what is below root, sorted.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if rel, _ := filepath.Rel(root, path); rel != "." && !strings.HasPrefix(rel, "proc") {
			if entry.IsDir() {
				rel += "/"
			}
			all = append(all, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// layout is a host in a directory, without any process.
func layout(t *testing.T) Layout {
	l := DefaultLayout()
	l.Root = t.TempDir()
	l.Table = process.Table{Root: filepath.Join(l.Root, "proc")}
	l.Run = func(context.Context, string, ...string) (string, error) { return "", errors.New("no such program") }
	write(t, l.Root, map[string]string{"proc/net/": ""})
	return l
}

// proc adds a process to a layout's fake table.
func proc(t *testing.T, l Layout, pid, parent int, comm string, args ...string) {
	t.Helper()
	write(t, l.Root, map[string]string{
		fmt.Sprintf("proc/%d/stat", pid):    fmt.Sprintf("%d (%s) S %d 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0", pid, comm, parent, 1000+pid),
		fmt.Sprintf("proc/%d/cmdline", pid): strings.Join(args, "\x00") + "\x00",
	})
}

// installed is a host after some life of knarr, with things of others in between.
func installed(t *testing.T) Layout {
	l := layout(t)
	write(t, l.Root, map[string]string{
		"var/lib/knarr/server/db/state.db":                                           "x",
		"var/lib/knarr/agent/containerd/a/b/c":                                       "x",
		"var/lib/knarr/storage/pvc-1/data":                                           "x",
		"var/lib/knarr/backups/knarr-20260102T000000Z.knarr-backup":                  "x",
		"var/lib/knarr/server.before-restore-20260102T000000Z/token":                 "x",
		"var/lib/knarr/data/abc/bin/runc":                                            "x",
		"var/lib/kubelet/pods/uid/volumes/e/f":                                       "x",
		"var/lib/cni/networks/cbr0/10.42.0.2":                                        "x",
		"var/lib/cni/networks/podman/10.88.0.2":                                      "foreign",
		"var/lib/cni/results/cbr0-abc-eth0":                                          "x",
		"var/log/pods/ns_p_uid/c/0.log":                                              "x",
		"var/log/containers/p.log":                                                   "->/var/log/pods/ns_p_uid/c/0.log",
		"etc/cni/net.d/10-knarr.conflist":                                            "x",
		"etc/cni/net.d/87-podman.conflist":                                           "foreign",
		"etc/knarr/config.yaml":                                                      "x",
		"etc/knarr.restored-20260101T000000Z/config.yaml":                            "x",
		"etc/knarr.before-restore-20260101T000000Z/config.yaml":                      "x",
		"run/knarr/containerd/containerd.sock":                                       "x",
		"run/containerd/containerd.sock":                                             "foreign",
		"run/containerd/s/ours":                                                      "x",
		"run/containerd/s/theirs":                                                    "foreign",
		"run/knarr/containerd/io.containerd.runtime.v2.task/k8s.io/1/bootstrap.json": `{"version":3,"address":"unix:///run/containerd/s/ours"}`,
		"usr/local/bin/knarr":                                                        "x",
		"usr/local/bin/kubectl":                                                      "->knarr",
		"usr/local/bin/helm":                                                         "foreign",
		"etc/systemd/system/knarr.service":                                           "x",
		"etc/knarr/install-manifest":                                                 "# written by install.sh\n/usr/local/bin/knarr\n/usr/local/bin/kubectl\n/etc/systemd/system/knarr.service\n/usr/local/bin/gone\n",
		"sys/fs/cgroup/memory/kubepods/pod1/c1/":                                     "",
		"sys/fs/cgroup/memory/docker/":                                               "",
	})
	return l
}

func execute(t *testing.T, l Layout, scope Scope) (*Plan, Report) {
	t.Helper()
	plan, err := Find(t.Context(), l, scope)
	if err != nil {
		t.Fatal(err)
	}
	return plan, plan.Execute(t.Context(), Options{Grace: time.Second})
}

func TestAllIsRemovedAndOnlyOurs(t *testing.T) {
	l := installed(t)
	plan, report := execute(t, l, ScopeAll)
	if len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	want := []string{
		"etc/", "etc/cni/", "etc/cni/net.d/", "etc/cni/net.d/87-podman.conflist", "etc/systemd/", "etc/systemd/system/",
		"run/", "run/containerd/", "run/containerd/containerd.sock", "run/containerd/s/", "run/containerd/s/theirs",
		"sys/", "sys/fs/", "sys/fs/cgroup/", "sys/fs/cgroup/memory/", "sys/fs/cgroup/memory/docker/",
		"usr/", "usr/local/", "usr/local/bin/", "usr/local/bin/helm",
		"var/", "var/lib/", "var/lib/cni/", "var/lib/cni/networks/", "var/lib/cni/networks/podman/", "var/lib/cni/networks/podman/10.88.0.2",
		"var/log/",
	}
	if got := tree(t, l.Root); !reflect.DeepEqual(got, want) {
		t.Errorf("left on the host:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// As long as the executable is there the command can be run again.
	last := plan.Items[len(plan.Items)-2:]
	if last[0].Name != "/usr/local/bin/knarr" || last[1].Name != "/etc/knarr/install-manifest" {
		t.Errorf("the last items are %s and %s, want the executable and the installer's list", last[0].Name, last[1].Name)
	}
	if _, report := execute(t, l, ScopeAll); len(report.Kept) > 0 {
		t.Errorf("a second run: %v", report.Kept)
	}
}

// A kill at any item must leave something from which a second run ends cleanly.
func TestResumesAfterEveryItem(t *testing.T) {
	l := installed(t)
	plan, err := Find(t.Context(), l, ScopeAll)
	if err != nil {
		t.Fatal(err)
	}
	for n := range plan.Items {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			l := installed(t)
			plan, err := Find(t.Context(), l, ScopeAll)
			if err != nil {
				t.Fatal(err)
			}
			plan.Items = plan.Items[:n]
			if report := plan.Execute(t.Context(), Options{}); len(report.Kept) > 0 {
				t.Fatalf("first run: %v", report.Kept)
			}
			if _, report := execute(t, l, ScopeAll); len(report.Kept) > 0 {
				t.Fatalf("second run: %v", report.Kept)
			}
			for _, path := range tree(t, l.Root) {
				if strings.Contains(path, "knarr") || strings.Contains(path, "kubepods") {
					t.Errorf("%s is left", path)
				}
			}
		})
	}
}

func TestStopsBeforeTheNextItemWhenInterrupted(t *testing.T) {
	l := installed(t)
	plan, err := Find(t.Context(), l, ScopeAll)
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, l.Root)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if report := plan.Execute(ctx, Options{}); report.Removed != 0 || len(report.Kept) != len(plan.Items) {
		t.Errorf("removed %d, kept %d of %d", report.Removed, len(report.Kept), len(plan.Items))
	}
	if got := tree(t, l.Root); !reflect.DeepEqual(got, before) {
		t.Errorf("an interrupted run changed the host: %v", got)
	}
}

func TestKeepData(t *testing.T) {
	l := installed(t)
	if _, report := execute(t, l, ScopeKeepData); len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	for path, want := range map[string]bool{
		"var/lib/knarr/server/db/state.db": true, "var/lib/knarr/storage/pvc-1/data": true, "etc/knarr/config.yaml": true,
		"run/knarr": false, "var/lib/kubelet": false, "usr/local/bin/knarr": false, "etc/knarr/install-manifest": false,
	} {
		if got := present(filepath.Join(l.Root, path)); got != want {
			t.Errorf("%s is there: %v, want %v", path, got, want)
		}
	}
}

func TestPodsScopeLeavesFiles(t *testing.T) {
	l := installed(t)
	before := tree(t, l.Root)
	if _, report := execute(t, l, ScopePods); len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	gone := []string{"sys/fs/cgroup/memory/kubepods/", "sys/fs/cgroup/memory/kubepods/pod1/", "sys/fs/cgroup/memory/kubepods/pod1/c1/"}
	want := slices.DeleteFunc(before, func(p string) bool { return slices.Contains(gone, p) })
	if got := tree(t, l.Root); !reflect.DeepEqual(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
}

func TestForeignEntriesOfTheDataDirectoryStay(t *testing.T) {
	l := installed(t)
	write(t, l.Root, map[string]string{"var/lib/knarr/photos/1.jpg": "precious"})
	plan, report := execute(t, l, ScopeAll)
	if len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	if !slices.Contains(plan.Kept, Kept{Name: "/var/lib/knarr/photos", Reason: "not made by knarr"}) {
		t.Errorf("the plan does not say that the photos stay: %v", plan.Kept)
	}
	if got, want := tree(t, filepath.Join(l.Root, "var/lib/knarr")), []string{"photos/", "photos/1.jpg"}; !reflect.DeepEqual(got, want) {
		t.Errorf("left in the data directory: %v, want %v", got, want)
	}
}

func TestDataDirectoryBehindALink(t *testing.T) {
	l := layout(t)
	write(t, l.Root, map[string]string{"big/disk/knarr/server/x": "x", "big/disk/other": "foreign"})
	write(t, l.Root, map[string]string{"var/lib/knarr": "->" + filepath.Join(l.Root, "big/disk/knarr")})
	if _, report := execute(t, l, ScopeAll); len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	if got, want := tree(t, l.Root), []string{"big/", "big/disk/", "big/disk/other", "var/", "var/lib/"}; !reflect.DeepEqual(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
}

func TestLinksInTreesAreNotFollowed(t *testing.T) {
	l := layout(t)
	write(t, l.Root, map[string]string{
		"home/user/thesis":          "precious",
		"var/lib/knarr/storage/pvc": "->" + filepath.Join(l.Root, "home/user"),
	})
	if _, report := execute(t, l, ScopeAll); len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	if !present(filepath.Join(l.Root, "home/user/thesis")) {
		t.Error("removed through a symbolic link")
	}
}

func TestSharedThingsStayWithAnotherKubernetes(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*testing.T, Layout)
	}{
		{"k3s runs", func(t *testing.T, l Layout) { proc(t, l, 70, 1, "k3s-server", "/usr/local/bin/k3s", "server") }},
		{"kubelet runs", func(t *testing.T, l Layout) { proc(t, l, 70, 1, "kubelet", "/usr/bin/kubelet") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := installed(t)
			tc.set(t, l)
			_, report := execute(t, l, ScopeAll)
			if len(report.Kept) > 0 {
				t.Errorf("could not be removed: %v", report.Kept)
			}
			for path, want := range map[string]bool{
				"var/lib/kubelet": true, "var/log/pods": true, "sys/fs/cgroup/memory/kubepods": true, "var/lib/cni/networks/cbr0": true,
				"var/lib/knarr": false, "run/knarr": false, "etc/knarr": false,
			} {
				if got := present(filepath.Join(l.Root, path)); got != want {
					t.Errorf("%s is there: %v, want %v", path, got, want)
				}
			}
		})
	}
}

func TestKubeadmsKubeletDirectoryStays(t *testing.T) {
	l := installed(t)
	write(t, l.Root, map[string]string{"etc/kubernetes/kubelet.conf": "x"})
	execute(t, l, ScopeAll)
	if !present(filepath.Join(l.Root, "var/lib/kubelet/pods/uid/volumes/e/f")) {
		t.Error("removed the kubelet directory of a node that kubeadm set up")
	}
}

func TestOwnShims(t *testing.T) {
	l := layout(t)
	shim := "/var/lib/knarr/data/abc/bin/containerd-shim-runc-v2"
	proc(t, l, 10, 1, "containerd-shim", shim, "-namespace", "k8s.io", "-id", "a", "-address", "/run/knarr/containerd/containerd.sock")
	proc(t, l, 11, 10, "pause", "/pause")
	proc(t, l, 12, 10, "kubelet", "kubelet") // a cluster in a pod: of ours, so not another one on the host
	proc(t, l, 20, 1, "containerd-shim", "/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-address", "/run/containerd/containerd.sock")
	proc(t, l, 21, 20, "nginx", "nginx")
	proc(t, l, 30, 1, "containerd-shim", "/usr/bin/containerd-shim-runc-v2", "-address", "/run/knarr-other/containerd.sock")
	proc(t, l, 40, 1, "vi", "vi", "-address", "/run/knarr/containerd/containerd.sock")
	all, err := l.Table.List()
	if err != nil {
		t.Fatal(err)
	}
	shims := l.ownShims(all)
	if len(shims) != 1 || shims[0].PID != 10 {
		t.Errorf("own shims: %v, want only pid 10", shims)
	}
	if other := l.foreignKubernetes(all, shims); other != nil {
		t.Errorf("%s counts as another Kubernetes on the host", other)
	}
}

func TestRefusesDirectoriesOfTheSystem(t *testing.T) {
	for _, dir := range []string{"/", "/home", "", "relative/path", "/var/lib", "/var/lib/", "/usr/../usr"} {
		l := layout(t)
		l.DataDir = dir
		if _, err := Find(t.Context(), l, ScopeAll); err == nil {
			t.Errorf("data directory %q was accepted", dir)
		}
	}
}

func TestInstallersListIsNotTrustedWithDirectories(t *testing.T) {
	l := layout(t)
	write(t, l.Root, map[string]string{
		"home/user/thesis":           "precious",
		"empty/dir/":                 "",
		"etc/knarr/install-manifest": "/home/user\n/empty/dir\nrelative\n/home/../home/user/thesis\n",
	})
	plan, report := execute(t, l, ScopeAll)
	if !present(filepath.Join(l.Root, "home/user/thesis")) || present(filepath.Join(l.Root, "empty/dir")) {
		t.Error("want the full directory to stay and the empty one to go")
	}
	if len(report.Kept) != 1 || report.Kept[0].Name != "/home/user" || len(plan.Kept) != 2 {
		t.Errorf("report %v, plan %v: want the directory and the two bad lines named", report.Kept, plan.Kept)
	}
}

func TestDeletionOfChains(t *testing.T) {
	rules := `# Generated
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m comment --comment "say \"x -j KUBE-FAKE y\" here" -j DOCKER
-A PREROUTING -g CNI-HOSTPORT-DNAT
-A KUBE-SERVICES -d 10.43.0.1/32 -j KUBE-SERVICES
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -j ACCEPT
COMMIT
`
	want := `*nat
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D PREROUTING -g CNI-HOSTPORT-DNAT
-F KUBE-SERVICES
-F CNI-HOSTPORT-DNAT
-X KUBE-SERVICES
-X CNI-HOSTPORT-DNAT
COMMIT
`
	if got, chains := deletionOf(rules); got != want || chains != 2 {
		t.Errorf("%d chains:\n%s\nwant 2:\n%s", chains, got, want)
	}
	if got, chains := deletionOf("*nat\n:DOCKER - [0:0]\nCOMMIT\n"); got != "" || chains != 0 {
		t.Errorf("nothing of ours gave %q", got)
	}
}

func TestChainsAreDeletedThroughRestore(t *testing.T) {
	l := layout(t)
	write(t, l.Root, map[string]string{"proc/net/ip_tables_names": "nat\n"})
	rules := "*nat\n:KUBE-X - [0:0]\nCOMMIT\n"
	var restored string
	l.Run = func(_ context.Context, name string, args ...string) (string, error) {
		switch name {
		case "iptables-legacy-save":
			return rules, nil
		case "iptables-legacy-restore":
			data, err := os.ReadFile(args[len(args)-1])
			restored, rules = string(data), ""
			return "", err
		}
		return "", errors.New("no such program")
	}
	plan, report := execute(t, l, ScopePods)
	if len(report.Kept) > 0 || !slices.ContainsFunc(plan.Items, func(i Item) bool { return i.Kind == KindChain && i.Name == "iptables-legacy" }) {
		t.Errorf("kept %v, plan %+v", report.Kept, plan.Items)
	}
	if want := "*nat\n-F KUBE-X\n-X KUBE-X\nCOMMIT\n"; restored != want {
		t.Errorf("restored %q, want %q", restored, want)
	}
}
