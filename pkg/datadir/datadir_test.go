package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestPaths(t *testing.T) {
	d, r := New("/var/lib/knarr/"), NewRun(DefaultRun)
	for _, c := range []struct{ got, want string }{
		{d.Root(), "/var/lib/knarr"},
		{d.VersionFile(), "/var/lib/knarr/version"},
		{d.LockFile(), "/var/lib/knarr/lock"},
		{d.Helpers(), "/var/lib/knarr/data"},
		{d.Server(), "/var/lib/knarr/server"},
		{d.DB(), "/var/lib/knarr/server/db"},
		{d.TLS(), "/var/lib/knarr/server/tls"},
		{d.Token(), "/var/lib/knarr/server/token"},
		{d.AgentToken(), "/var/lib/knarr/server/agent-token"},
		{d.Manifests(), "/var/lib/knarr/server/manifests"},
		{d.Static(), "/var/lib/knarr/server/static"},
		{d.Agent(), "/var/lib/knarr/agent"},
		{d.NodeID(), "/var/lib/knarr/agent/node-id"},
		{d.Containerd(), "/var/lib/knarr/agent/containerd"},
		{d.Images(), "/var/lib/knarr/agent/images"},
		{d.PodManifests(), "/var/lib/knarr/agent/pod-manifests"},
		{d.KubeletKubeconfig(), "/var/lib/knarr/agent/kubelet.kubeconfig"},
		{d.KubeProxyKubeconfig(), "/var/lib/knarr/agent/kubeproxy.kubeconfig"},
		{d.ContainerdConfig(), "/var/lib/knarr/agent/etc/containerd/config.toml"},
		{d.RegistryConfig(), "/var/lib/knarr/agent/etc/containerd/certs.d"},
		{d.KubeletConfig(), "/var/lib/knarr/agent/etc/kubelet.conf.d"},
		{d.CNIConfig(), "/var/lib/knarr/agent/etc/cni/net.d"},
		{r.Root(), "/run/knarr"},
		{r.Containerd(), "/run/knarr/containerd"},
		{r.ContainerdSocket(), "/run/knarr/containerd/containerd.sock"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	ascending := []string{
		"v1.36.9+knarr4", "v1.37.0-rc.1+knarr1", "v1.37.0+knarr1", "v1.37.1", "v1.37.1+knarr1",
		"v1.37.1+knarr2", "v1.37.1+knarr10", "v1.37.2+knarr1", "v1.37.10+knarr1", "v2.0.0",
	}
	for i, a := range ascending {
		for j, b := range ascending {
			ra, errA := parseRelease(a)
			rb, errB := parseRelease(b)
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			if got := ra.compare(rb); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s against %s: %d", a, b, got)
			}
		}
	}
	for _, dirty := range []string{"v1.37.1+knarr1.dirty", "v1.37.1+knarr1-3-gabcdef"} {
		got, err := parseRelease(dirty)
		if want := (release{"v1.37.1", 1}); err != nil || got != want {
			t.Errorf("%s: %+v, %v", dirty, got, err)
		}
	}
	for _, bad := range []string{"", "1.37.1", "v1.37.1+knarr", "v1.37.1+knarrx", "v1.x", "v1.37.1+knarr99999999999999999999"} {
		if got, err := parseRelease(bad); err == nil {
			t.Errorf("%q is %+v, want an error", bad, got)
		}
	}
}

// open opens and closes again at the end of the test.
func open(t *testing.T, d Dir, version string) *Lock {
	t.Helper()
	l, err := d.Open(version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // a second Close, where the test closed it, may fail
	return l
}

func TestOpen(t *testing.T) {
	d := New(filepath.Join(t.TempDir(), "a", "b"))
	if err := d.Check("v1.37.1+knarr1"); err != nil {
		t.Errorf("check before it exists: %v", err)
	}
	if _, err := os.Stat(d.Root()); !os.IsNotExist(err) {
		t.Errorf("Check made something: %v", err)
	}
	l := open(t, d, "v1.37.1+knarr1")
	if l.Previous != "" {
		t.Errorf("previous version of a new data-dir is %q", l.Previous)
	}
	for path, want := range map[string]os.FileMode{filepath.Dir(d.Root()): 0o755, d.Root(): 0o700, d.VersionFile(): 0o600, d.LockFile(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %o", path, info.Mode(), err, want)
		}
	}
	if got := content(t, d.LockFile()); got != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("lock file holds %q", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ version, previous string }{
		{"v1.37.1+knarr1", "v1.37.1+knarr1"},
		{"v1.37.1+knarr2", "v1.37.1+knarr1"},
		{"v1.38.0+knarr1", "v1.37.1+knarr2"},
	} {
		l := open(t, d, step.version)
		if l.Previous != step.previous || content(t, d.VersionFile()) != step.version+"\n" {
			t.Errorf("%s: previous %q, stamp %q", step.version, l.Previous, content(t, d.VersionFile()))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestNewerIsRefusedUntouched(t *testing.T) {
	d := New(t.TempDir())
	if err := open(t, d, "v1.37.2+knarr1").Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.LockFile(), []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Check": d.Check("v1.37.1+knarr9"), "Open": openError(d, "v1.37.1+knarr9")} {
		want := "data-dir " + d.Root() + " was written by knarr v1.37.2+knarr1, which is newer than this knarr v1.37.1+knarr9: " +
			"run v1.37.2+knarr1 or newer, or restore a backup made before the upgrade"
		var newer *NewerError
		if !errors.As(err, &newer) || err.Error() != want {
			t.Errorf("%s: got %v\nwant %s", what, err, want)
		}
	}
	if got := content(t, d.VersionFile()) + content(t, d.LockFile()); got != "v1.37.2+knarr1\nas it was" {
		t.Errorf("files changed: %q", got)
	}
	open(t, d, "v1.37.2+knarr1") // the refusal gave the lock back
}

func openError(d Dir, version string) error {
	l, err := d.Open(version)
	if err == nil {
		err = errors.Join(errors.New("opened"), l.Close())
	}
	return err
}

func TestDamagedStamp(t *testing.T) {
	d := New(t.TempDir())
	if err := os.WriteFile(d.VersionFile(), []byte("\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := openError(d, "v1.37.1+knarr1")
	if err == nil || !strings.Contains(err.Error(), d.VersionFile()+" is damaged") {
		t.Errorf("got %v", err)
	}
}

func TestNotADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{file, filepath.Join(file, "below")} {
		if err := openError(New(root), "v1.37.1+knarr1"); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("%s: got %v", root, err)
		}
	}
}

func TestNodeID(t *testing.T) {
	d := New(t.TempDir())
	first, err := d.ReadNodeID()
	if err == nil {
		err = d.KeepNodeID(first)
	}
	if err != nil || len(first) != 8 {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := d.ReadNodeID(); err != nil || again != first {
		t.Errorf("%q, %v, want %q", again, err, first)
	}
	if other, err := New(t.TempDir()).ReadNodeID(); err != nil || other == first {
		t.Errorf("another data-dir has %q, %v", other, err)
	}
	if err := os.WriteFile(d.NodeID(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if id, err := d.ReadNodeID(); err == nil || !strings.Contains(err.Error(), d.NodeID()) {
		t.Errorf("damaged: %q, %v", id, err)
	}
}

// TestUpgradeComesBeforeTheStamp sees what an upgrade needs be done once for each version, and the stamp stay when it
// cannot be done.
func TestUpgradeComesBeforeTheStamp(t *testing.T) {
	d := New(filepath.Join(t.TempDir(), "knarr"))
	var seen []string
	fail := error(nil)
	open := func(version string) error {
		l, err := d.Open(version, func(previous string) error {
			stamp, rerr := os.ReadFile(d.VersionFile())
			if rerr != nil || strings.TrimSpace(string(stamp)) != previous {
				t.Errorf("the stamp is %q, %v while %s is upgraded", stamp, rerr, previous)
			}
			seen = append(seen, previous)
			return fail
		})
		if err == nil {
			err = l.Close()
		}
		return err
	}
	for _, version := range []string{"v1.37.0+knarr1", "v1.37.0+knarr1", "v1.37.1+knarr1"} {
		if err := open(version); err != nil {
			t.Fatal(err)
		}
	}
	fail = errors.New("disk full")
	if err := open("v1.38.0+knarr1"); !errors.Is(err, fail) {
		t.Errorf("upgrade that fails: %v", err)
	}
	fail = nil
	if err := open("v1.38.0+knarr1"); err != nil {
		t.Error(err)
	}
	if want := []string{"v1.37.0+knarr1", "v1.37.1+knarr1", "v1.37.1+knarr1"}; !slices.Equal(seen, want) {
		t.Errorf("upgrades from %v, want %v", seen, want)
	}
}
