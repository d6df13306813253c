package images

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/vishvananda/netlink"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/knarr-io/knarr/pkg/upstream/containerd"
	"github.com/knarr-io/knarr/tests/bed"
)

// inNamespace marks the process that has a mount and a network namespace of its own.
const inNamespace = "KNARR_TEST_IN_NAMESPACE"

// TestContainerd runs the import against knarr's own containerd in the same process, as it is in production. That mounts,
// listens, and changes globals, so the test runs itself again in a process with a mount and a network namespace.
func TestContainerd(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestContainerd$", "-test.v")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		// Unshareflags, unlike Cloneflags, has the mounts made private.
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestContainerd ")) {
			t.Errorf("%v (the test needs root: run it with scripts/test)\n%s", err, out)
		}
		return
	}
	if err := loopback(); err != nil { // CRI listens there
		t.Fatalf("bring up the loopback interface: %v", err)
	}
	address := daemon(t)
	n, err := dial(address, "native")
	if err != nil {
		t.Fatal(err)
	}
	b := live{n, address}
	t.Run("bundled images", b.bundled)
	t.Run("formats", b.formats)
	t.Run("damaged archives", b.damaged)
	t.Run("a half-written blob", b.halfWritten)
	t.Run("a directory", b.directory)
	t.Run("pull", b.pull)
	if err := n.client.Close(); err != nil {
		t.Error(err)
	}
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// daemon runs knarr's containerd in this process.
func daemon(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	address := filepath.Join(dir, "c.sock")
	c := containerd.New(containerd.Config{
		ConfigFile: filepath.Join(dir, "etc", "config.toml"), DropIns: filepath.Join(dir, "etc", "conf.d", "*.toml"),
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Address: address,
		Snapshotter: "native", DefaultRuntime: "runc", PauseImage: "docker.io/knarr/pause:1",
		Shim: "/nowhere/shim", Runc: "/nowhere/runc", CNIBins: []string{filepath.Join(dir, "cni")}, CNIConfig: filepath.Join(dir, "net.d"),
		RegistryConfig: filepath.Join(dir, "certs.d"), RestrictOOMScore: true, DisableHugetlb: true, DisableApparmor: true,
	}, func() (map[string]string, error) { return nil, nil })
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("containerd ended with %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("containerd does not start: %v", err)
	case <-time.After(bed.Patience):
		t.Fatal("containerd does not get ready")
	}
	return address
}

// live is a connection to a containerd that runs.
type live struct {
	node    *node
	address string
}

// pinned are the names under which CRI has images that the kubelet must not collect.
func (b live) pinned(t *testing.T) []string {
	t.Helper()
	list, err := b.node.cri.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list.Images {
		if i.Pinned {
			names = append(names, i.RepoTags...)
		}
	}
	slices.Sort(names)
	return names
}

func (b live) bundled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pause.tar")
	const name = "docker.io/knarr/pause:1"
	if err := os.WriteFile(path, layout(t, name), 0o644); err != nil {
		t.Fatal(err)
	}
	var version string
	for i := range 3 {
		began := time.Now()
		if err := Ensure(t.Context(), b.address, "native", path); err != nil {
			t.Fatal(err)
		}
		t.Logf("call %d took %v", i, time.Since(began))
		if got := b.pinned(t); !slices.Equal(got, []string{name}) {
			t.Errorf("pinned are %v", got)
		}
		img, err := b.node.client.ImageService().Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && img.UpdatedAt.String() != version {
			t.Error("an image that was there was written again")
		}
		version = img.UpdatedAt.String()
	}
	if err := b.node.client.ImageService().Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), b.address, "native", path); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), b.address, "native", path+".gone"); err == nil || !strings.Contains(err.Error(), path+".gone") {
		t.Errorf("an archive that is not there: %v", err)
	}
}

func (b live) formats(t *testing.T) {
	make := func(name string) []byte { return layout(t, "docker.io/library/"+name) }
	tests := map[string][]byte{
		"plain:1":  make("plain:1"),
		"gzip:1":   gzipped(t, make("gzip:1")),
		"zstd:1":   zstandard(t, make("zstd:1")),
		"docker:1": dockerArchive(t, "docker:1", make("docker:1")),
		"both:1":   gzipped(t, dockerArchive(t, "both:1", make("both:1"))),
	}
	for name, data := range tests {
		full := "docker.io/library/" + name
		got, err := b.node.Import(t.Context(), bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := []string{full}; !slices.Equal(slices.Sorted(maps.Keys(got)), want) {
			t.Errorf("%s: imported %v", name, got)
		}
		if there, err := b.node.Has(t.Context(), got); err != nil || !there {
			t.Errorf("%s: there %t, error %v", name, there, err)
		}
		if there, err := b.node.Has(t.Context(), digests{full: digest.FromString("other")}); err != nil || there {
			t.Errorf("%s with another digest: there %t, error %v", name, there, err)
		}
		if err := b.node.await(t.Context(), full); err != nil {
			t.Error(err)
		}
		if !slices.Contains(b.pinned(t), full) {
			t.Errorf("%s is not pinned", name)
		}
		// A pod may name it by its digest too.
		if err := b.node.await(t.Context(), "docker.io/library/"+strings.TrimSuffix(name, ":1")+"@"+got[full].String()); err != nil {
			t.Error(err)
		}
	}
}

// Each case has contents of its own: what is in containerd already does not have to be in an archive.
func (b live) damaged(t *testing.T) {
	tests := []struct {
		what   string
		damage func(good []byte) []byte
		want   string
	}{
		{"layer", func(good []byte) []byte { return flipped(t, good, "the program") }, "has the checksum sha256:"},
		{"manifest", func(good []byte) []byte { return flipped(t, good, `"layers":[`) }, "has the checksum sha256:"},
		{"configuration", func(good []byte) []byte { return flipped(t, good, `"diff_ids"`) }, "has the checksum sha256:"},
		{"docker-layer", func(good []byte) []byte {
			return flipped(t, dockerArchive(t, "damaged:docker-layer", good), "the program")
		}, "unpack image"},
		{"cut", func(good []byte) []byte { return good[:bytes.Index(good, []byte("the program"))+5] }, "unexpected EOF"},
		{"nothing", func([]byte) []byte { return nil }, "unrecognized image format"},
		{"text", func([]byte) []byte { return bytes.Repeat([]byte("no tar at all "), 100) }, "invalid tar header"},
	}
	path := filepath.Join(t.TempDir(), "damaged.tar")
	for _, tt := range tests {
		name := "docker.io/library/damaged:" + tt.what
		old, err := b.node.Import(t.Context(), bytes.NewReader(layoutOf(t, name, "older "+tt.what)))
		if err != nil {
			t.Fatal(err)
		}
		good := layout(t, name)
		if err := os.WriteFile(path, tt.damage(good), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := importFile(t.Context(), b.node, path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.what, err, tt.want)
		}
		if there, err := b.node.Has(t.Context(), old); err != nil || !there {
			t.Errorf("%s: the older image is there: %t, error %v", tt.what, there, err)
		}
		if _, err := b.node.Import(t.Context(), bytes.NewReader(good)); err != nil {
			t.Errorf("%s: the good archive after the damaged one: %v", tt.what, err)
		}
	}
}

func (b live) halfWritten(t *testing.T) {
	const name = "docker.io/library/half:1"
	good := layout(t, name)
	at := bytes.Index(good, []byte("the program"))
	bad := flipped(t, good, "the program")[:at+5] // ends within the blob, after a byte that is wrong
	if _, err := b.node.Import(t.Context(), bytes.NewReader(bad)); err == nil {
		t.Fatal("half an archive was imported")
	}
	if _, err := b.node.Import(t.Context(), bytes.NewReader(good)); err != nil {
		t.Error(err)
	}
}

func (b live) directory(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "images", name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	put("a.tar", layout(t, "docker.io/library/a:1"))
	put("b.tar.zst", zstandard(t, layout(t, "docker.io/library/b:1")))
	c := New(Config{Address: b.address, Snapshotter: "native", Dir: filepath.Join(dir, "images"), Record: filepath.Join(dir, "record"), Settle: 20 * time.Millisecond},
		slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, sync.OnceFunc(func() { put("c.tgz", gzipped(t, layout(t, "docker.io/library/c:1"))) }))
	}()
	for _, name := range []string{"a:1", "b:1", "c:1"} {
		if err := b.node.await(t.Context(), "docker.io/library/"+name); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func (b live) pull(t *testing.T) {
	const name = "docker.io/library/here:1"
	if _, err := b.node.Import(t.Context(), bytes.NewReader(layout(t, name))); err != nil {
		t.Fatal(err)
	}
	if err := b.node.Pull(t.Context(), "here:1"); err != nil {
		t.Errorf("an image that is there: %v", err)
	}
	if err := b.node.Pull(t.Context(), "127.0.0.1:1/gone:1"); err == nil {
		t.Error("an image that is nowhere was pulled")
	}
	if err := b.node.Pull(t.Context(), "A B"); err == nil {
		t.Error("a name that is none was pulled")
	}
}
