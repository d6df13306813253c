package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/pki"
)

// cluster makes the certificates of three nodes, with common authorities, as joining servers have them.
func cluster(t *testing.T) []Config {
	t.Helper()
	var nodes []Config
	root := t.TempDir()
	for i := range 3 {
		dir, address := filepath.Join(root, fmt.Sprint(i)), netip.AddrFrom4([4]byte{127, 77, 0, byte(i + 1)})
		if i > 0 {
			for _, f := range pki.SharedFiles() {
				data, err := os.ReadFile(filepath.Join(root, "0", f))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, f), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		nodes = append(nodes, certified(t, dir, fmt.Sprint("node-", i), address))
	}
	return nodes
}

// certified is a member with certificates for its address, which it keeps while that stays the same.
func certified(t *testing.T, dir, node string, address netip.Addr) Config {
	t.Helper()
	keys := pki.Config{
		DataDir: dir, Etcd: true, NodeName: node, NodeIPs: []netip.Addr{address},
		ServerURL: "https://127.0.0.1:6443", ClusterDomain: "cluster.local",
	}
	if _, err := pki.Ensure(time.Now(), keys); err != nil {
		t.Fatal(err)
	}
	files := func(ca pki.CA, leaf pki.Leaf) TLS {
		pair := keys.LeafPair(leaf)
		return TLS{CA: keys.CAPair(ca).Cert, Cert: pair.Cert, Key: pair.Key}
	}
	return Config{
		Dir: filepath.Join(dir, "etcd"), NodeName: node, Address: address,
		Peer: files(pki.EtcdPeerCA, pki.EtcdPeer), Server: files(pki.EtcdServerCA, pki.EtcdServer), Client: files(pki.EtcdServerCA, pki.EtcdClient),
	}
}

// whole starts the members of a cluster, the first of which begins it.
func whole(t *testing.T, nodes []Config) []*Member {
	t.Helper()
	members := []*Member{start(t, nodes[0])}
	u := endpoint(nodes[0].Address, ClientPort)
	for i := range nodes[1:] {
		nodes[i+1].Join = []string{u.String()}
		members = append(members, start(t, nodes[i+1]))
	}
	return members
}

func start(t *testing.T, c Config) *Member {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := Start(ctx, c, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func connect(t *testing.T, c Config) *clientv3.Client {
	t.Helper()
	u := endpoint(c.Address, ClientPort)
	client, err := Connect(t.Context(), []string{u.String()}, c.Client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func put(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := client.Put(ctx, key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, client *clientv3.Client, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := client.Get(ctx, key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

// TestClusterLives goes through the life of a cluster: it begins, two servers join and become full members, one is
// lost, which the others bear, its node is deleted, then the quorum is lost, and one server begins anew with all data.
func TestClusterLives(t *testing.T) {
	nodes := cluster(t)
	first := start(t, nodes[0])
	client := connect(t, nodes[0])
	put(t, client, "/registry/a", "1")
	u := endpoint(nodes[0].Address, ClientPort)
	members := []*Member{first}
	for i := 1; i < 3; i++ {
		nodes[i].Join = []string{u.String()}
		members = append(members, start(t, nodes[i]))
		if got := get(t, connect(t, nodes[i]), "/registry/a"); got != "1" {
			t.Errorf("member %d has %q", i, got)
		}
	}
	all, err := Members(t.Context(), client)
	if err != nil || len(all) != 3 || slices.ContainsFunc(all, func(m Info) bool { return m.Learner }) {
		t.Fatalf("members: %+v, %v", all, err)
	}
	for i, m := range all {
		if m.Node() != nodes[i].NodeName {
			t.Errorf("member %s is of node %s, want %s", m.Name, m.Node(), nodes[i].NodeName)
		}
	}
	if _, _, err := AddMember(t.Context(), client, all[1].PeerURLs[0]); err == nil || !strings.Contains(err.Error(), "kubectl delete node node-1") {
		t.Errorf("adding a member twice: %v", err)
	}
	members[2].Close()
	put(t, client, "/registry/a", "2")
	if gone, err := RemoveMember(t.Context(), client, "node-2"); err != nil || len(gone) != 1 {
		t.Errorf("remove: %v, %v", gone, err)
	}
	if gone, err := RemoveMember(t.Context(), client, "node-2"); err != nil || len(gone) != 0 {
		t.Errorf("remove again: %v, %v", gone, err)
	}
	members[1].Close()
	quorumLost(t, first, client)
	first.Close()

	lone := nodes[0]
	lone.ForceNewCluster = true
	reset := start(t, lone)
	reset.Close()
	again := start(t, nodes[0])
	defer again.Close()
	if got := get(t, connect(t, nodes[0]), "/registry/a"); got != "2" {
		t.Errorf("after the reset: %q", got)
	}
	if got := again.List(); len(got) != 1 || !got[0].Leader {
		t.Errorf("members after the reset: %+v", got)
	}
	if gone, err := RemoveMember(t.Context(), connect(t, nodes[0]), "node-0"); err == nil || len(gone) != 0 {
		t.Errorf("the last member could be removed: %v, %v", gone, err)
	}
}

// TestAMemberLeavesWhenItHasJustJoined: etcd wants its members to have been connected for a while first.
func TestAMemberLeavesWhenItHasJustJoined(t *testing.T) {
	nodes := cluster(t)
	defer start(t, nodes[0]).Close()
	client := connect(t, nodes[0])
	u := endpoint(nodes[0].Address, ClientPort)
	nodes[1].Join = []string{u.String()}
	defer start(t, nodes[1]).Close()
	if gone, err := RemoveMember(t.Context(), client, "node-1"); err != nil || len(gone) != 1 {
		t.Errorf("remove: %v, %v", gone, err)
	}
	put(t, client, "/registry/a", "1")
}

// quorumLost requires that a member without the others knows.
func quorumLost(t *testing.T, m *Member, client *clientv3.Client) {
	t.Helper()
	deadline := time.After(time.Minute)
	for m.HasLeader() {
		select {
		case <-deadline:
			t.Fatal("a member without the others still has a leader")
		case <-time.After(50 * time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client.Put(ctx, "/registry/lost", "x"); err == nil {
		t.Error("a write without a quorum was acknowledged")
	}
}

// TestStrangersAreRefused connects without a certificate and with one of another cluster.
func TestStrangersAreRefused(t *testing.T) {
	nodes, others := cluster(t), cluster(t)
	m := start(t, nodes[0])
	defer m.Close()
	stranger := nodes[0].Client
	stranger.Cert, stranger.Key = others[0].Client.Cert, others[0].Client.Key
	u := endpoint(nodes[0].Address, ClientPort)
	for name, creds := range map[string]TLS{"none": {CA: stranger.CA}, "another cluster's": stranger} {
		client, err := Connect(t.Context(), []string{u.String()}, creds)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := client.Get(ctx, "a"); err == nil {
			t.Errorf("a client with certificate %s was served", name)
		}
		cancel()
		client.Close()
	}
}

func TestMoveDefragmentAndRaise(t *testing.T) {
	nodes := cluster(t)
	m := start(t, nodes[0])
	client := connect(t, nodes[0])
	for i := range 200 {
		put(t, client, "/registry/big", strings.Repeat("x", 100_000)+fmt.Sprint(i))
	}
	rev := m.State().Revision
	if _, err := client.Compact(t.Context(), rev, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	before := m.State()
	if err := m.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := m.State(); after.DiskBytes >= before.DiskBytes/4 || after.Revision != rev || after.CompactRevision < rev {
		t.Errorf("defragmented from %+v to %+v", before, after)
	}
	if used, err := InUse(nodes[0].Dir); err != nil || !used {
		t.Errorf("in use: %v, %v", used, err)
	}
	m.Close()
	if used, err := InUse(nodes[0].Dir); err != nil || used {
		t.Errorf("in use after the end: %v, %v", used, err)
	}
	if err := RaiseRevision(nodes[0].Dir, rev+1000); err != nil {
		t.Fatal(err)
	}
	// The node got another address.
	moved := nodes[0]
	moved.Address = netip.MustParseAddr("127.77.0.9")
	m = start(t, moved)
	defer m.Close()
	if got := m.List(); len(got) != 1 || got[0].PeerURLs[0] != "https://127.77.0.9:2380" {
		t.Errorf("after the move: %+v", got)
	}
	if got := m.State(); got.Revision <= rev+1000 {
		t.Errorf("revision %d, want above %d", got.Revision, rev+1000)
	}
}

func TestFragmented(t *testing.T) {
	for _, c := range []struct {
		disk, free int64
		want       bool
	}{{1 << 20, 1 << 20, false}, {1 << 30, 100 << 20, false}, {1 << 30, 600 << 20, true}, {130 << 20, 65 << 20, false}, {130 << 20, 66 << 20, true}} {
		if got := fragmented(State{DiskBytes: c.disk, FreeBytes: c.free}); got != c.want {
			t.Errorf("%d free of %d: %t", c.free, c.disk, got)
		}
	}
}

func TestNodeOfAMember(t *testing.T) {
	for name, want := range map[string]string{"box-0123abcd": "box", "a-1-0123abcd": "a-1", "x": "x", "-0123abcd": "-0123abcd"} {
		if got := (Info{Name: name}).Node(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestMembersMove has two members of three come back under other addresses, one after the other, as when DHCP gives them
// new ones, and then leaves these two alone: they have a quorum only if each is known where it is now.
func TestMembersMove(t *testing.T) {
	nodes := cluster(t)
	members := whole(t, nodes)
	for i := range 2 {
		put(t, connect(t, nodes[2]), "/registry/moves", fmt.Sprint(i))
		members[i].Close()
		to := netip.AddrFrom4([4]byte{127, 77, 1, byte(i + 1)})
		nodes[i] = certified(t, filepath.Dir(nodes[i].Dir), nodes[i].NodeName, to)
		members[i] = start(t, nodes[i])
		defer members[i].Close()
	}
	listed, err := Members(t.Context(), connect(t, nodes[2]))
	if err != nil || len(listed) != len(nodes) {
		t.Fatalf("members: %+v, %v", listed, err)
	}
	for i, m := range listed {
		peer, client := endpoint(nodes[i].Address, PeerPort), endpoint(nodes[i].Address, ClientPort)
		if !slices.Equal(m.PeerURLs, []string{peer.String()}) || !slices.Equal(m.ClientURLs, []string{client.String()}) {
			t.Errorf("%s is at %v and %v, want %v", m.Name, m.PeerURLs, m.ClientURLs, nodes[i].Address)
		}
	}
	members[2].Close()
	client := connect(t, nodes[0])
	put(t, client, "/registry/moves", "both")
	if got := get(t, connect(t, nodes[1]), "/registry/moves"); got != "both" {
		t.Errorf("the other one that moved has %q", got)
	}
}
