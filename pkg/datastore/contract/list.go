package contract

import (
	"fmt"
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// page lists as the apiserver does: from a continue key to the prefix's end.
func (s *suite) page(t *testing.T, prefix, from string, limit, rev int64) *clientv3.GetResponse {
	t.Helper()
	return s.get(t, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(limit), clientv3.WithRev(rev))
}

// all pages through a prefix at one revision.
func (s *suite) all(t *testing.T, prefix string, limit, rev int64) (keys, values []string) {
	t.Helper()
	from, left := prefix, int64(-1)
	for {
		r := s.page(t, prefix, from, limit, rev)
		if left >= 0 && r.Count != left {
			t.Errorf("page from %q counts %d, want %d", from, r.Count, left)
		}
		left = r.Count - int64(len(r.Kvs))
		if r.More != (left > 0) {
			t.Errorf("page from %q: more %v with %d left", from, r.More, left)
		}
		if limit > 0 && int64(len(r.Kvs)) > limit {
			t.Errorf("page has %d keys, the limit was %d", len(r.Kvs), limit)
		}
		for _, kv := range r.Kvs {
			keys, values = append(keys, string(kv.Key)), append(values, string(kv.Value))
		}
		if !r.More {
			return keys, values
		}
		if rev == 0 {
			rev = r.Header.Revision
		}
		from = keys[len(keys)-1] + "\x00"
	}
}

func (s *suite) fill(t *testing.T, n int) (keys []string, revs []int64) {
	t.Helper()
	for i := range n {
		// Neither made in order nor in reverse.
		keys = append(keys, fmt.Sprintf("%sobj-%03d", s.p, i*37%n))
		revs = append(revs, s.ok(t, keys[i], fmt.Sprint("v", i*37%n), 0))
	}
	return keys, revs
}

func testPagination(t *testing.T, s *suite) {
	keys, _ := s.fill(t, 50)
	want := slices.Sorted(slices.Values(keys))
	for _, limit := range []int64{0, 1, 7, 25, 49, 50, 51, 1000} {
		got, values := s.all(t, s.p, limit, 0)
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: got %v", limit, got)
		}
		for i, v := range values {
			if v != fmt.Sprint("v", i) {
				t.Errorf("limit %d: key %s has value %s", limit, got[i], v)
			}
		}
	}
	r := s.get(t, s.p, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if len(r.Kvs) != 50 || len(r.Kvs[0].Value) != 0 && !s.traits.KeysWithValues || string(r.Kvs[0].Key) != want[0] || r.Kvs[0].ModRevision == 0 {
		t.Errorf("keys only: %v", r.Kvs[0])
	}
}

// testListAtRevision changes everything between pages.
func testListAtRevision(t *testing.T, s *suite) {
	keys, revs := s.fill(t, 40)
	first := s.page(t, s.p, s.p, 10, 0)
	at := first.Header.Revision
	for i, key := range keys {
		switch i % 4 {
		case 0:
			s.deleted(t, key, revs[i])
		case 1:
			s.ok(t, key, "changed", revs[i])
		case 2:
			s.ok(t, key, "again", s.ok(t, key, "changed", revs[i]))
		}
		s.ok(t, fmt.Sprintf("%sobj-%03d-new", s.p, i), "new", 0)
	}
	// Deleted and made again, so that it exists now and then but was another.
	r := s.ok(t, keys[0], "reborn", 0)
	s.deleted(t, keys[0], r)
	for _, limit := range []int64{0, 10, 3} {
		got, values := s.all(t, s.p, limit, at)
		if !slices.Equal(got, slices.Sorted(slices.Values(keys))) {
			t.Errorf("limit %d: at revision %d there are now %v", limit, at, got)
		}
		for i, v := range values {
			if v != fmt.Sprint("v", i) {
				t.Errorf("limit %d: %s has value %q at revision %d", limit, got[i], v, at)
			}
		}
	}
	if n := s.get(t, s.p, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithRev(at)).Count; n != 40 {
		t.Errorf("count at revision %d is %d, want 40", at, n)
	}
	if n := s.get(t, s.p, clientv3.WithPrefix(), clientv3.WithCountOnly()).Count; n != 40-10+40 {
		t.Errorf("count is %d, want 70", n)
	}
}

func testCount(t *testing.T, s *suite) {
	count := func(prefix string, opts ...clientv3.OpOption) int64 {
		t.Helper()
		r := s.get(t, prefix, append(opts, clientv3.WithPrefix(), clientv3.WithCountOnly())...)
		if len(r.Kvs) != 0 {
			t.Errorf("a count returned keys: %v", r.Kvs)
		}
		return r.Count
	}
	if n := count(s.p); n != 0 {
		t.Errorf("count of nothing is %d", n)
	}
	var counts, revs []int64
	for i := range 30 {
		key := fmt.Sprintf("%s%d/%02d", s.p, i%3, i)
		rev := s.ok(t, key, "1", 0)
		switch i % 5 {
		case 0:
			rev = s.deleted(t, key, rev)
		case 1:
			rev = s.ok(t, key, "2", rev)
		}
		counts, revs = append(counts, count(s.p)), append(revs, rev)
	}
	if counts[29] != 24 {
		t.Errorf("count is %d, want 24", counts[29])
	}
	if n := count(s.p+"0/") + count(s.p+"1/") + count(s.p+"2/"); n != 24 {
		t.Errorf("counts of the three directories add up to %d, want 24", n)
	}
	for i, rev := range revs {
		if n := count(s.p, clientv3.WithRev(rev)); n != counts[i] {
			t.Errorf("count at revision %d is %d, was %d", rev, n, counts[i])
		}
	}
}

func testRangeBorders(t *testing.T, s *suite) {
	for _, k := range []string{"a", "a/", "a/1", "a/2", "a0", "ab", "b"} {
		s.ok(t, s.p+k, k, 0)
	}
	type border struct {
		from, end string
		want      []string
	}
	cases := []border{
		{"a/", "a0", []string{"a/", "a/1", "a/2"}},
		{"a/1", "a/2", []string{"a/1"}},
		{"a/2", "b", []string{"a/2", "a0", "ab"}},
		{"a/1\x00", "a0", []string{"a/2"}}, // as a continued list begins
	}
	if !s.traits.TextKeys {
		cases = append(cases, border{"a/1\x00", "a0\x00", []string{"a/2", "a0"}}, border{"a", "a\x00", []string{"a"}})
	}
	if !s.traits.BackwardRanges {
		cases = append(cases, border{"b", "a", nil})
	}
	for _, tc := range cases {
		r := s.get(t, s.p+tc.from, clientv3.WithRange(s.p+tc.end))
		var got []string
		for _, kv := range r.Kvs {
			got = append(got, string(kv.Value))
		}
		if !slices.Equal(got, tc.want) || r.Count != int64(len(tc.want)) {
			t.Errorf("from %q to %q: %q, count %d, want %q", tc.from, tc.end, got, r.Count, tc.want)
		}
	}
}

func testUnusualKeys(t *testing.T, s *suite) {
	keys := []string{
		"%", "%%", "_", "a%b", "a_b", "aXb", "'", `"`, `\`, `\\`, ";--", "a", " ",
		"*", "?", "[a]", "~", "gap-1", "compact_rev_key", "x/../y", "//", "/",
		"long-" + fmt.Sprintf("%0400d", 7),
	}
	if !s.traits.ASCIIKeys {
		keys = append(keys, "\t\n", "  ", "A", "Ä", "ä", "日本", "é")
	}
	if !s.traits.TextKeys {
		keys = append(keys, "\x00", "nul\x00in", "\xff", "\xff\xff", "\x80bad")
	}
	revs := map[string]int64{}
	for _, k := range keys {
		revs[k] = s.ok(t, s.p+k, k, 0)
	}
	for _, k := range keys {
		g := s.get(t, s.p+k)
		if len(g.Kvs) != 1 {
			t.Errorf("get %q: %d keys", k, len(g.Kvs))
			continue
		}
		s.kv(t, g.Kvs[0], s.p+k, k, revs[k], revs[k], 1)
	}
	got, values := s.all(t, s.p, 5, 0)
	want := slices.Sorted(slices.Values(keys))
	if s.traits.ASCIIKeys {
		slices.Sort(values)
	}
	if !slices.Equal(values, want) {
		t.Errorf("list gives %q, want %q (keys %q)", values, want, got)
	}
	if n := s.get(t, s.p+"a_", clientv3.WithPrefix()).Count; n != 1 {
		t.Errorf("keys with the prefix \"a_\": %d, want 1", n)
	}
	if n := s.get(t, s.p+"%", clientv3.WithPrefix()).Count; n != 2 {
		t.Errorf("keys with the prefix \"%%\": %d, want 2", n)
	}
}
