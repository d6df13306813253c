package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     counts
		says     string
		fails    bool
	}{
		{"all pass", `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1}
{"Action":"pass","Package":"p","Test":"TestA/sub"}
{"Action":"pass","Package":"p","Elapsed":2}`, counts{passed: 2}, "ok   p: 2 tests, 2.0 s", false},
		{"one fails and its output is shown", `{"Action":"output","Package":"p","Test":"TestA","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`, counts{failed: 1}, "FAIL p TestA (0.0 s)\nwhy\n", false},
		{"a package dies outside of a test", `{"Action":"output","Package":"p","Output":"panic: oh\n"}
{"Action":"fail","Package":"p"}`, counts{failed: 1}, "panic: oh", false},
		{"a package does not build", `{"ImportPath":"p","Action":"build-output","Output":"undefined: x\n"}
{"ImportPath":"p","Action":"build-fail"}`, counts{failed: 1}, "undefined: x", false},
		{"skips are named", `{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`, counts{skipped: 1}, "SKIP p TestA", false},
		{"nothing ran", `{"Action":"skip","Package":"p"}`, counts{}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			s := newSummary(&out, false)
			err := s.read(strings.NewReader(c.in))
			if (err != nil) != c.fails || s.counts != c.want || !strings.Contains(out.String(), c.says) {
				t.Errorf("gives %+v, %v and says %q; want %+v and %q", s.counts, err, out.String(), c.want, c.says)
			}
		})
	}
}
