package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
)

// netnsPattern is what containerd's CNI library calls the namespaces of pods.
const netnsPattern = "cni-*"

func (f *finder) findNetns(context.Context) error {
	// The pattern is constant, so Glob cannot fail.
	paths, _ := filepath.Glob(f.path(f.NetnsDir, netnsPattern))
	for _, path := range paths {
		name := f.shown(path)
		ours, other := f.usersOf(path)
		if other != "" {
			f.keep(name, other+" lives in it, which is not of knarr")
			continue
		}
		item := Item{Kind: KindNetns, Name: name, remove: func(context.Context, Options) []Kept {
			if _, other := f.usersOf(path); other != "" {
				return []Kept{{Name: name, Reason: other + " lives in it"}}
			}
			return keptOn(name, removeNetns(path))
		}}
		if ours {
			f.add(item)
		} else {
			f.shared(item) // nobody lives in it: it may be a stopped pod of either
		}
	}
	return nil
}

// usersOf tells whether processes of knarr live in a network namespace, and names
// one that is not knarr's.
func (f *finder) usersOf(path string) (ours bool, other string) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return false, "" // gone, or a leftover that is not mounted
	}
	want := fmt.Sprintf("net:[%d]", stat.Ino)
	all, err := f.Table.List()
	if err != nil {
		return false, "an unknown process (" + err.Error() + ")"
	}
	mine := map[int]bool{}
	for _, p := range process.Descendants(all, f.ownShims(all)...) {
		mine[p.PID] = true
	}
	for _, p := range all {
		if f.Table.Namespace(fmt.Sprint(p.PID), "net") != want || p.State == 'Z' {
			continue
		}
		if !mine[p.PID] {
			return ours, p.String()
		}
		ours = true
	}
	return ours, ""
}

// removeNetns takes the bind mount off and removes the file under it. The kernel
// frees the namespace, with the links in it, when its last user is gone.
func removeNetns(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !gone(err) {
		return fmt.Errorf("unmount network namespace: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// bridge is the name of the pods' bridge.
const bridge = "cni0"

// bandwidthPrefix begins the names of the links that the bandwidth CNI plugin makes
// for pods with a limit.
const bandwidthPrefix = "bwp"

// ownLinks are the links that knarr or flannel inside it creates.
func ownLinks() []string {
	return []string{bridge, "flannel.1", "flannel-v6.1", "flannel-wg", "flannel-wg-v6", "kube-ipvs0"}
}

func (f *finder) findLinks(context.Context) error {
	links, err := netlink.LinkList()
	for range 10 {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		links, err = netlink.LinkList() // a link came or went while they were listed
	}
	if err != nil {
		return fmt.Errorf("list network links: %w", err)
	}
	master := -1
	for _, link := range links {
		if link.Attrs().Name == bridge && link.Type() == "bridge" {
			master = link.Attrs().Index
		}
	}
	var ports, own []netlink.Link
	for _, link := range links {
		switch {
		case slices.Contains(ownLinks(), link.Attrs().Name):
			own = append(own, link)
		case link.Type() == "veth" && link.Attrs().MasterIndex == master:
			ports = append(ports, link)
		case link.Type() == "ifb" && strings.HasPrefix(link.Attrs().Name, bandwidthPrefix):
			ports = append(ports, link)
		}
	}
	for _, link := range append(ports, own...) {
		name := link.Attrs().Name
		f.shared(Item{Kind: KindLink, Name: name, remove: func(context.Context, Options) []Kept {
			err := netlink.LinkDel(link)
			if errors.Is(err, unix.ENODEV) {
				err = nil // its other end went with the namespace
			}
			return keptOn(name, err)
		}})
	}
	return nil
}

// ownTables are the names of nftables tables of kube-proxy, flannel and the CNI
// plugins; those of knarr's own controllers begin with "knarr".
func ownTables() []string {
	return []string{"kube-proxy", "flannel-ipv4", "flannel-ipv6", "cni_hostport", "cni_plugins_masquerade"}
}

// families are the nftables families by their names in `nft list tables`.
func families() map[nftables.TableFamily]string {
	return map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
		nftables.TableFamilyBridge: "bridge", nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev",
	}
}

// findTables speaks netlink itself, so that a host without an nft program, or with
// an old one, is cleaned as well.
func (f *finder) findTables(context.Context) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
			return nil // a kernel without nftables has no tables
		}
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, table := range tables {
		mine := strings.HasPrefix(table.Name, "knarr")
		if !mine && !slices.Contains(ownTables(), table.Name) {
			continue
		}
		name := families()[table.Family] + " " + table.Name
		item := Item{Kind: KindTable, Name: name, remove: func(context.Context, Options) []Kept {
			return keptOn(name, removeTable(table))
		}}
		if mine {
			f.add(item)
		} else {
			f.shared(item)
		}
	}
	return nil
}

func removeTable(table *nftables.Table) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.DelTable(table)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table: %w", err)
	}
	return nil
}
