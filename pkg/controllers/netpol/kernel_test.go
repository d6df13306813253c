package netpol

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// dump is what the kernel has in a table of ours; empty when there is none.
func dump(t testing.TB, family nftables.TableFamily) string {
	t.Helper()
	text, err := look(family)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// look is dump while somebody may be changing the table, which makes errors.
func look(family nftables.TableFamily) (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", err
	}
	tables, err := conn.ListTablesOfFamily(family)
	at := slices.IndexFunc(tables, func(table *nftables.Table) bool { return table.Name == Table })
	if err != nil || at < 0 {
		return "", err
	}
	sets, err := lookAtSets(conn, tables[at])
	if err != nil {
		return "", err
	}
	chains, err := lookAtChains(conn, tables[at])
	if err != nil {
		return "", err
	}
	lines := append(sets, chains...)
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

func lookAtSets(conn *nftables.Conn, table *nftables.Table) (lines []string, err error) {
	sets, err := conn.GetSets(table)
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("set %s %v", s.Name, s.KeyType.Name))
		for _, e := range elements {
			line := fmt.Sprintf("set %s element %v %t", s.Name, e.Key, e.IntervalEnd)
			if e.VerdictData != nil {
				line += fmt.Sprintf(" %d %s", e.VerdictData.Kind, e.VerdictData.Chain)
			}
			lines = append(lines, line)
		}
	}
	return lines, nil
}

func lookAtChains(conn *nftables.Conn, table *nftables.Table) (lines []string, err error) {
	chains, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if c.Table.Name != table.Name {
			continue
		}
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("chain %s hook %v", c.Name, c.Hooknum != nil))
		for i, r := range rules {
			var exprs []string
			for _, e := range r.Exprs {
				exprs = append(exprs, fmt.Sprintf("%T%+v", e, e))
			}
			lines = append(lines, fmt.Sprintf("chain %s rule %03d %s", c.Name, i, strings.Join(exprs, " ")))
		}
	}
	return lines, nil
}

// cleanTables leaves no tables of ours behind.
func cleanTables(t testing.TB, k *kernel) {
	t.Helper()
	k.empty = false
	if err := k.remove(); err != nil {
		t.Error(err)
	}
}

// A difference must lead to where writing all anew leads, whatever was before.
func TestDifferencesLeadToTheSameTable(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	kube, namespaces, policies := crowd(t, 40, 60)
	base := &world{node: "here", namespaces: map[string]labels.Set{}}
	for _, n := range namespaces {
		base.namespaces[n.Name] = n.Labels
	}
	for _, p := range kube {
		base.pods = append(base.pods, trimmed(t, p))
	}
	for i, p := range base.pods {
		if i%3 == 0 {
			p.ips = append(p.ips, netip.MustParseAddr(fmt.Sprintf("fd42::%x", i+2)))
		}
		if i%4 == 0 {
			p.node = "there"
		}
	}
	stepwise, anew := &kernel{bridge: "cni0"}, &kernel{bridge: "cni0"}
	defer cleanTables(t, stepwise)
	for step := range 30 {
		w := &world{node: "here", namespaces: base.namespaces}
		for _, p := range base.pods {
			if random.IntN(3) > 0 {
				w.pods = append(w.pods, p)
			}
		}
		for _, p := range policies {
			if random.IntN(3) > 0 {
				w.policies = append(w.policies, p)
			}
		}
		rs, err := compile(w)
		if err != nil {
			t.Fatal(err)
		}
		if err := stepwise.apply(rs, nil); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		got := dump(t, nftables.TableFamilyINet)
		anew.forget()
		if err := anew.apply(rs, nil); err != nil {
			t.Fatalf("step %d, anew: %v", step, err)
		}
		if want := dump(t, nftables.TableFamilyINet); got != want {
			t.Fatalf("step %d: %s", step, firstDifference(got, want))
		}
	}
	if err := anew.close(); err != nil {
		t.Error(err)
	}
}

func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("got\n%s\nwant\n%s", a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}

// A transaction that the kernel refuses changes nothing, and the next one starts from the beginning.
func TestARefusedTransactionChangesNothing(t *testing.T) {
	k := &kernel{}
	defer cleanTables(t, k)
	rs, err := compile(town(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.apply(rs, nil); err != nil {
		t.Fatal(err)
	}
	before := dump(t, nftables.TableFamilyINet)
	w := town(t)
	w.policies = []*networkingv1.NetworkPolicy{policyOf(t, "shop", "deny", `{podSelector: {}, policyTypes: [Ingress]}`)}
	bad, err := compile(w)
	if err != nil {
		t.Fatal(err)
	}
	bad.chains["broken"] = []rule{{verdict: verdict{jump, "nowhere"}}}
	err = k.apply(bad, nil)
	if err == nil || !strings.Contains(err.Error(), "write network policies to nftables") {
		t.Fatalf("error %v", err)
	}
	if got := dump(t, nftables.TableFamilyINet); got != before {
		t.Error(firstDifference(got, before))
	}
	delete(bad.chains, "broken")
	if err := k.apply(bad, nil); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, nftables.TableFamilyINet); !strings.Contains(got, "shop/deny") {
		t.Errorf("after the refusal the table is\n%s", got)
	}
}

func TestRemoveTakesBothTables(t *testing.T) {
	k := &kernel{bridge: "cni0"}
	withBridge(t)
	rs, err := compile(town(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.apply(rs, []string{"veth1", "veth2"}); err != nil {
		t.Fatal(err)
	}
	families := []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge}
	for _, f := range families {
		if dump(t, f) == "" {
			t.Errorf("there is no table of family %d", f)
		}
	}
	other := &kernel{} // a process that did not make them
	for range 2 {
		if err := other.remove(); err != nil {
			t.Fatal(err)
		}
		other.empty = false
	}
	for _, f := range families {
		if got := dump(t, f); got != "" {
			t.Errorf("left in family %d:\n%s", f, got)
		}
	}
}

// withBridge makes a bridge like that of the pods.
func withBridge(t *testing.T) netlink.Link {
	t.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	})
	for _, a := range []string{"10.42.0.1/24", "fd42::1/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
	return link
}

func TestTheBridgeIsFollowed(t *testing.T) {
	link := withBridge(t)
	k := &kernel{bridge: "cni0"}
	defer cleanTables(t, k)
	rs, err := compile(town(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, mac := range []string{"02:00:00:00:00:01", "02:00:00:00:00:02"} {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetHardwareAddr(link, hw); err != nil {
			t.Fatal(err)
		}
		if err := k.apply(rs, []string{"veth1"}); err != nil {
			t.Fatal(err)
		}
		if got := dump(t, nftables.TableFamilyBridge); strings.Count(got, fmt.Sprint([]byte(hw))) != 3 {
			t.Errorf("the address %s is not in three rules:\n%s", hw, got)
		}
	}
}

func TestMonitorTellsOthersFromUs(t *testing.T) {
	k := &kernel{}
	defer cleanTables(t, k)
	rs, err := compile(town(t))
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64 // messages
	var byOthers atomic.Bool
	opened, touched := make(chan struct{}), make(chan bool, 1000)
	own := func() uint32 {
		seen.Add(1)
		return k.port.Load()
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- monitor(ctx, own, func() { close(opened) }, func() { touched <- byOthers.Load() })
	}()
	<-opened
	if err := k.apply(rs, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	foreign := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "foreign"})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	// Our sets, chains and rules, and the other's table.
	await(t, func() string { return fmt.Sprintf("only %d messages were seen", seen.Load()) }, func() bool { return seen.Load() >= 10 })
	byOthers.Store(true)
	conn.DelTable(foreign)
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: Table})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case others := <-touched:
		if !others {
			t.Error("a change of our own was taken for another's")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the removal of the table was not noticed")
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestElementOrderIsTotal(t *testing.T) {
	a := element{addr: netip.MustParseAddr("10.0.0.1"), proto: tcp, port: 1}
	b := a
	b.port = 2
	if a.compare(b) >= 0 || b.compare(a) <= 0 || cmp.Compare(a.compare(a), 0) != 0 {
		t.Error("elements that differ in the port compare as equal")
	}
}
