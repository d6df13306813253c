package uninstall

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
	"github.com/knarr-io/knarr/tests/apart"
)

// TestMain runs all tests of this package in namespaces of their own (network,
// mount, pid), so that they can make and remove links, tables and mounts without
// touching the machine.
func TestMain(m *testing.M) {
	if as := os.Getenv(role); as != "" {
		play(as)
	}
	os.Exit(apart.Run(m, unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWPID, func() error {
		return unix.Mount("proc", "/proc", "proc", 0, "")
	}))
}

func mount(t *testing.T, source, target, fsType string, flags uintptr) {
	t.Helper()
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, target, fsType, flags, ""); err != nil {
		t.Fatalf("mount %s on %s: %v", source, target, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && !gone(err) {
			t.Error(err)
		}
	})
}

func TestVolumesAreUnmountedNotEmptied(t *testing.T) {
	l := installed(t)
	write(t, l.Root, map[string]string{"srv/export/precious": "x"})
	export := filepath.Join(l.Root, "srv/export")
	volume := filepath.Join(l.Root, "var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/pv/mount")
	mount(t, export, volume, "", unix.MS_BIND)
	mount(t, "tmpfs", filepath.Join(l.Root, "run/knarr/containerd/rootfs"), "tmpfs", 0)
	mount(t, export, filepath.Join(l.Root, "run/knarr/containerd/rootfs/inner"), "", unix.MS_BIND)
	busy, err := os.Open(filepath.Join(l.Root, "run/knarr/containerd/rootfs/inner"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()

	if _, report := execute(t, l, ScopeAll); len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	if !present(filepath.Join(export, "precious")) {
		t.Error("the volume's content was removed")
	}
	for _, path := range []string{"var/lib/kubelet", "run/knarr"} {
		if present(filepath.Join(l.Root, path)) {
			t.Errorf("/%s is left", path)
		}
	}
}

// A bind mount of the same file system has the same device number: the case in
// which `rm --one-file-system` and its like go on into the user's files.
func TestUsersMountsInTheDataDirectoryStay(t *testing.T) {
	l := installed(t)
	write(t, l.Root, map[string]string{"home/user/thesis": "precious", "home/file": "precious", "var/lib/knarr/storage/pvc-2/file": ""})
	mount(t, filepath.Join(l.Root, "home/user"), filepath.Join(l.Root, "var/lib/knarr/storage/pvc-1/mine"), "", unix.MS_BIND)
	onFile := filepath.Join(l.Root, "var/lib/knarr/storage/pvc-2/file")
	if err := unix.Mount(filepath.Join(l.Root, "home/file"), onFile, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(onFile, unix.MNT_DETACH); err != nil && !gone(err) {
			t.Error(err)
		}
	})
	_, report := execute(t, l, ScopeAll)
	var names []string
	for _, kept := range report.Kept {
		names = append(names, strings.TrimPrefix(kept.Name, l.Root))
	}
	slices.Sort(names)
	want := []string{"/var/lib/knarr/storage/pvc-1/mine", "/var/lib/knarr/storage/pvc-2/file"}
	if !slices.Equal(names, want) {
		t.Errorf("kept %v, want %v", report.Kept, want)
	}
	for _, path := range []string{"home/user/thesis", "home/file"} {
		if data, err := os.ReadFile(filepath.Join(l.Root, path)); err != nil || string(data) != "precious" {
			t.Errorf("%s holds %q, %v", path, data, err)
		}
	}
	if present(filepath.Join(l.Root, "var/lib/knarr/server")) || present(filepath.Join(l.Root, "var/lib/knarr/storage/pvc-1/data")) {
		t.Error("what lies beside the mounts was not removed")
	}
	// When the user has unmounted, a second run ends the work.
	for _, path := range want {
		if err := unix.Unmount(filepath.Join(l.Root, path), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, report := execute(t, l, ScopeAll); len(report.Kept) > 0 {
		t.Errorf("second run: %v", report.Kept)
	}
}

// Unmounting a recursive bind of a shared tree must not unmount the original.
func TestSharedMountsOfTheHostSurvive(t *testing.T) {
	l := installed(t)
	host := filepath.Join(l.Root, "host")
	mount(t, "tmpfs", host, "tmpfs", 0)
	if err := unix.Mount("", host, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	mount(t, "tmpfs", filepath.Join(host, "disk"), "tmpfs", 0)
	write(t, host, map[string]string{"disk/file": "precious"})
	mount(t, host, filepath.Join(l.Root, "var/lib/kubelet/pods/uid/volumes/h"), "", unix.MS_BIND|unix.MS_REC)
	if _, report := execute(t, l, ScopeAll); len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	if !present(filepath.Join(host, "disk/file")) {
		t.Error("a mount of the host went with a volume that showed it")
	}
}

func TestDiskMountedOnTheDataDirectory(t *testing.T) {
	l := layout(t)
	dir := filepath.Join(l.Root, "var/lib/knarr")
	mount(t, "tmpfs", dir, "tmpfs", 0)
	write(t, dir, map[string]string{"server/x": "x"})
	_, report := execute(t, l, ScopeAll)
	if len(report.Kept) != 1 || report.Kept[0].Name != "/var/lib/knarr" {
		t.Errorf("kept %v, want the mount point alone", report.Kept)
	}
	if got := tree(t, dir); len(got) > 0 {
		t.Errorf("left on the disk: %v", got)
	}
}

func addLink(t *testing.T, link netlink.Link) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatalf("add link %s: %v", link.Attrs().Name, err)
	}
	made, err := netlink.LinkByName(link.Attrs().Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(made); err != nil && !errors.Is(err, unix.ENODEV) && !strings.Contains(err.Error(), "not found") {
			t.Error(err)
		}
	})
	return made
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func TestLinksAndTablesOfOthersStay(t *testing.T) {
	l := layout(t)
	cni := addLink(t, &netlink.Bridge{LinkAttrs: named("cni0")})
	docker := addLink(t, &netlink.Bridge{LinkAttrs: named("docker0")})
	pod := addLink(t, &netlink.Veth{LinkAttrs: named("vethpod"), PeerName: "podend"})
	other := addLink(t, &netlink.Veth{LinkAttrs: named("vethdock"), PeerName: "dockend"})
	addLink(t, &netlink.Vxlan{LinkAttrs: named("flannel.1"), VxlanId: 1, Port: 8472})
	addLink(t, &netlink.Vxlan{LinkAttrs: named("flannel.7"), VxlanId: 7, Port: 8473})
	addLink(t, &netlink.GenericLink{LinkAttrs: named("bwp0123"), LinkType: "ifb"})
	addLink(t, &netlink.GenericLink{LinkAttrs: named("ifbmine"), LinkType: "ifb"})
	for link, master := range map[netlink.Link]netlink.Link{pod: cni, other: docker} {
		if err := netlink.LinkSetMaster(link, master); err != nil {
			t.Fatal(err)
		}
	}
	addTables(t, "kube-proxy", "flannel-ipv4", "knarr-netpol", "firewalld", "mine")

	if _, report := execute(t, l, ScopePods); len(report.Kept) > 0 {
		t.Errorf("could not be removed: %v", report.Kept)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, link := range links {
		left = append(left, link.Attrs().Name)
	}
	slices.Sort(left)
	left = slices.DeleteFunc(left, func(name string) bool {
		return !strings.Contains("docker0 vethdock dockend flannel.7 cni0 flannel.1 vethpod podend bwp0123 ifbmine", name)
	})
	if want := []string{"dockend", "docker0", "flannel.7", "ifbmine", "vethdock"}; !slices.Equal(left, want) {
		t.Errorf("links left: %v, want %v", left, want)
	}
	if got, want := tables(t), []string{"firewalld", "mine"}; !slices.Equal(got, want) {
		t.Errorf("tables left: %v, want %v", got, want)
	}
}

func addTables(t *testing.T, names ...string) {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func tables(t *testing.T) []string {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	all, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, table := range all {
		names = append(names, table.Name)
	}
	slices.Sort(names)
	return names
}

// role makes the test executable play a process of a pod.
const role = "KNARR_TEST_ROLE"

// play is a shim with two containers, a container that says good-bye, one that
// ignores SIGTERM, or a process that just sits in its namespaces.
func play(as string) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGTERM)
	switch as {
	case "shim":
		for _, child := range []string{"polite", "stubborn"} {
			cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
			cmd.Env = append(os.Environ(), role+"="+child)
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Start(); err != nil {
				panic(err)
			}
			go cmd.Wait() // reaped as a shim does
		}
		<-asked
	case "polite":
		fmt.Println("polite")
		<-asked
		if err := os.WriteFile(os.Args[1], []byte("bye"), 0o644); err != nil {
			panic(err)
		}
	case "stubborn":
		fmt.Println("stubborn")
		for range asked {
		}
	case "sit":
		fmt.Println("sit")
		<-asked
	}
	os.Exit(0)
}

// started runs the test executable in a role until the test ends, and waits until
// it has said so much.
func started(t *testing.T, as string, flags uintptr, says int, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = args
	cmd.Env = append(os.Environ(), role+"="+as)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		<-ended
	})
	_, err = io.ReadFull(out, make([]byte, says))
	go func() { ended <- cmd.Wait() }()
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// shim starts a process tree as containerd's shim makes it. The file said appears
// when its polite container was asked to end.
func shim(t *testing.T, address string) (p process.Process, said string) {
	t.Helper()
	said = filepath.Join(t.TempDir(), "said")
	cmd := started(t, "shim", 0, len("polite\nstubborn\n"), "containerd-shim-runc-v2", said, "-address", address)
	p, err := process.Table{}.Get(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p, said
}

func TestPodsEndGracefullyAndOthersStay(t *testing.T) {
	l := layout(t)
	l.Table = process.Table{}
	ours, said := shim(t, l.RunDir+"/containerd/containerd.sock")
	theirs, _ := shim(t, "/run/containerd/containerd.sock")
	plan, err := Find(t.Context(), l, ScopePods)
	if err != nil {
		t.Fatal(err)
	}
	report := plan.Execute(t.Context(), Options{Grace: 500 * time.Millisecond})
	if len(report.Kept) > 0 {
		t.Errorf("could not be ended: %v", report.Kept)
	}
	if l.Table.Alive(ours) || !l.Table.Alive(theirs) {
		t.Errorf("our shim lives: %v, the other one: %v; want false, true", l.Table.Alive(ours), l.Table.Alive(theirs))
	}
	all, err := l.Table.List()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(process.Descendants(all, theirs)); n != 2 {
		t.Errorf("the other shim has %d containers, want 2", n)
	}
	if word, err := os.ReadFile(said); err != nil || string(word) != "bye" {
		t.Errorf("the polite container said %q, %v: it was not asked to end", word, err)
	}
}

func TestNetworkNamespaceInUseStays(t *testing.T) {
	l := layout(t)
	l.Table = process.Table{}
	dir := filepath.Join(l.Root, "run/netns")
	for _, name := range []string{"cni-used", "cni-free", "mine"} {
		cmd := started(t, "sit", unix.CLONE_NEWNET, len("sit\n"), "sit")
		write(t, dir, map[string]string{name: ""})
		path := filepath.Join(dir, name)
		if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !gone(err) {
				t.Error(err)
			}
		})
		if name == "cni-free" {
			p, err := l.Table.Get(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if left, err := l.Table.End(t.Context(), []process.Process{p}, 10*time.Second); err != nil || len(left) > 0 {
				t.Fatalf("end %v: %v", left, err)
			}
		}
	}
	plan, report := execute(t, l, ScopePods)
	if len(report.Kept) > 0 || len(plan.Kept) != 1 || plan.Kept[0].Name != "/run/netns/cni-used" {
		t.Errorf("report %v, plan %v; want the namespace in use kept", report.Kept, plan.Kept)
	}
	for name, want := range map[string]bool{"cni-used": true, "cni-free": false, "mine": true} {
		if got := present(filepath.Join(dir, name)); got != want {
			t.Errorf("%s is there: %v, want %v", name, got, want)
		}
	}
}
