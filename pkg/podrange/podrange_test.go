package podrange

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

func ranges(texts ...string) []Range {
	var list []Range
	for _, p := range prefixes(texts...) {
		bits := 24
		if p.Addr().Is6() {
			bits = 64
		}
		list = append(list, Range{p, bits})
	}
	return list
}

func TestAssign(t *testing.T) {
	const v4, v6 = "10.42.0.0/16", "fd00:42::/56"
	for name, tt := range map[string]struct {
		have   []netip.Prefix
		ranges []Range
		used   []netip.Prefix
		want   string
	}{
		"as it is":                 {prefixes("10.42.3.0/24"), ranges(v4), nil, "10.42.3.0/24"},
		"IPv6 is added":            {prefixes("10.42.3.0/24"), ranges(v4, v6), nil, "10.42.3.0/24 fd00:42:0:3::/64"},
		"its number is taken":      {prefixes("10.42.3.0/24"), ranges(v4, v6), prefixes("fd00:42:0:3::/64", "fd00:42::/64"), "10.42.3.0/24 fd00:42:0:1::/64"},
		"its number is too high":   {prefixes("10.42.255.0/24"), ranges(v4, "fd00:42::/60"), nil, "10.42.255.0/24 fd00:42::/64"},
		"IPv4 is added":            {prefixes("fd00:42:0:7::/64"), ranges(v6, v4), nil, "fd00:42:0:7::/64 10.42.7.0/24"},
		"IPv6 is taken away":       {prefixes("10.42.3.0/24", "fd00:42:0:3::/64"), ranges(v4), nil, "10.42.3.0/24"},
		"the other is the first":   {prefixes("10.42.3.0/24", "fd00:42:0:3::/64"), ranges(v6, v4), nil, "fd00:42:0:3::/64 10.42.3.0/24"},
		"both as they are":         {prefixes("10.42.3.0/24", "fd00:42:0:9::/64"), ranges(v4, v6), nil, "10.42.3.0/24 fd00:42:0:9::/64"},
		"a range of one node":      {prefixes("10.42.0.0/24"), ranges(v4, "fd00:42::/64"), nil, "10.42.0.0/24 fd00:42::/64"},
		"no network is left":       {prefixes("10.42.0.0/24"), ranges(v4, "fd00:42::/64"), prefixes("fd00:42::/64"), "--cluster-cidr fd00:42::/64 has no network left: it is for 1 nodes"},
		"another range, same kind": {prefixes("10.42.3.0/24"), ranges("10.99.0.0/16", v6), nil, "which is not in --cluster-cidr 10.99.0.0/16"},
	} {
		used := map[netip.Prefix]bool{}
		for _, p := range append(tt.used, tt.have...) {
			used[p] = true
		}
		var got []string
		list, err := assign("n", tt.have, tt.ranges, used)
		for _, p := range list {
			got = append(got, p.String())
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if text := strings.Join(got, " "); err == nil && text != tt.want || !strings.Contains(text, tt.want) {
			t.Errorf("%s: got %s, want %s", name, text, tt.want)
		}
	}
}

// store is a datastore with one writer besides us, who comes in between at the first transaction of each key in race.
type store struct {
	clientv3.KV
	values    map[string]string
	revisions map[string]int64
	race      map[string]bool
	writes    int
}

func (s *store) Get(context.Context, string, ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	reply := &clientv3.GetResponse{}
	for k, v := range s.values {
		reply.Kvs = append(reply.Kvs, &mvccpb.KeyValue{Key: []byte(k), Value: []byte(v), ModRevision: s.revisions[k]})
	}
	return reply, nil
}

func (s *store) Txn(context.Context) clientv3.Txn { return &txn{store: s} }

type txn struct {
	store *store
	cmp   clientv3.Cmp
	op    clientv3.Op
}

func (t *txn) If(c ...clientv3.Cmp) clientv3.Txn  { t.cmp = c[0]; return t }
func (t *txn) Then(o ...clientv3.Op) clientv3.Txn { t.op = o[0]; return t }
func (t *txn) Else(...clientv3.Op) clientv3.Txn   { return t }

func (t *txn) Commit() (*clientv3.TxnResponse, error) {
	key := string(t.op.KeyBytes())
	if t.store.race[key] {
		delete(t.store.race, key)
		t.store.revisions[key]++
	}
	want := t.cmp.GetCompare().GetModRevision()
	if string(t.cmp.KeyBytes()) != key || want != t.store.revisions[key] {
		return &clientv3.TxnResponse{}, nil
	}
	t.store.values[key] = string(t.op.ValueBytes())
	t.store.revisions[key]++
	t.store.writes++
	return &clientv3.TxnResponse{Succeeded: true}, nil
}

func TestExtend(t *testing.T) {
	codec, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	s := &store{values: map[string]string{}, revisions: map[string]int64{}, race: map[string]bool{Prefix + "b": true}}
	for name, nets := range map[string][]string{"a": {"10.42.0.0/24"}, "b": {"10.42.1.0/24"}, "new": nil} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "keep", Labels: map[string]string{"k": "v"}}, Spec: corev1.NodeSpec{PodCIDRs: nets, ProviderID: "knarr://" + name}}
		if len(nets) > 0 {
			node.Spec.PodCIDR = nets[0]
		}
		value, err := runtime.Encode(codec, node)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(value), "k8s\x00") {
			t.Fatalf("nodes are not written as kube-apiserver writes them: %q", value[:8])
		}
		s.values[Prefix+name], s.revisions[Prefix+name] = string(value), 7
	}
	for range 2 { // the second time there is nothing to do
		if err := Extend(t.Context(), s, ranges("10.42.0.0/16", "fd00:42::/56"), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	if s.writes != 2 {
		t.Errorf("%d writes, want 2", s.writes)
	}
	for name, want := range map[string]string{"a": "10.42.0.0/24 fd00:42::/64", "b": "10.42.1.0/24 fd00:42:0:1::/64", "new": ""} {
		object, err := runtime.Decode(codec, []byte(s.values[Prefix+name]))
		if err != nil {
			t.Fatal(err)
		}
		node := object.(*corev1.Node)
		if got := strings.Join(node.Spec.PodCIDRs, " "); got != want || node.UID != "keep" || node.Labels["k"] != "v" || node.Spec.ProviderID != "knarr://"+name {
			t.Errorf("node %s: got %s, want %s: %+v", name, got, want, node)
		}
	}
	s.values[Prefix+"a"] = "k8s:enc:aescbc:v1:key:..."
	if err := Extend(t.Context(), s, ranges("10.42.0.0/16"), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "leave nodes out of the encryption") {
		t.Errorf("got %v", err)
	}
}
