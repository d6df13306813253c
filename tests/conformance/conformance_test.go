package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var someTests = []string{
	"[sig-node] Pods should be updated [NodeConformance] [Conformance]",
	"[sig-node] Pods should be updated",
	"[sig-network] DNS should resolve [Conformance]",
	"[sig-apps] Job should run [Conformance]",
}

func TestReadReport(t *testing.T) {
	f, err := os.Open("testdata/ginkgo.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []outcome
	if err := readReport(f, someTests, func(o outcome) error { got = append(got, o); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []outcome{
		{name: someTests[0], state: "passed", took: 1500 * time.Millisecond},
		{name: someTests[2], state: "failed", took: 12 * time.Second},
		{name: someTests[3], state: "skipped", took: 100 * time.Millisecond},
		{name: someTests[1], state: "failed", took: time.Second},
	}
	if len(got) != len(want) {
		t.Fatalf("%d outcomes %+v, want %d", len(got), got, len(want))
	}
	for i, w := range want {
		if g := got[i]; g.name != w.name || g.state != w.state || g.took != w.took {
			t.Errorf("outcome %d is %+v, want %+v", i, g, w)
		}
	}
	if !strings.Contains(got[1].output, "the reason") || strings.Contains(got[0].output, "the reason") {
		t.Errorf("outputs are mixed up: %q, %q", got[0].output, got[1].output)
	}
}

func TestRecordGoesOn(t *testing.T) {
	dir := t.TempDir()
	r, err := openRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, o := range []outcome{
		{name: someTests[0], state: "passed"},
		{name: someTests[2], state: "failed", output: "why"},
		{name: someTests[3], state: "failed", output: "why"},
		{name: someTests[3], state: "passed"},
	} {
		if err := r.add(o, "v1", day); err != nil {
			t.Fatal(err)
		}
	}
	// Killed in the middle of a line.
	f, err := os.OpenFile(filepath.Join(dir, resultsFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("passed\t2026-11-22\t1s\tv1\t" + someTests[2]); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err = openRecord(dir); err != nil {
		t.Fatal(err)
	}
	if got, want := r.missing(someTests), []string{someTests[1], someTests[2]}; !slices.Equal(got, want) {
		t.Errorf("missing %q, want %q", got, want)
	}
	if b, err := os.ReadFile(r.failure(someTests[2])); err != nil || string(b) != "why" {
		t.Errorf("the failure's output is %q, %v", b, err)
	}
	if _, err := os.Stat(r.failure(someTests[3])); !os.IsNotExist(err) {
		t.Errorf("the output of a failure that was mended is still there: %v", err)
	}
	page := r.document(someTests)
	for _, want := range []string{"| 4 | 2 | 1 | 1 |", "| " + someTests[0] + " | passed | 2026-11-22 | v1 |", "| " + someTests[1] + " | not run |  |  |"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not contain %q:\n%s", want, page)
		}
	}
}

func TestInUsr(t *testing.T) {
	for name, want := range map[string]string{
		"./": "", "./bin": "", "./bin/": "", "./bin/sh": "usr/bin/sh", "./usr/bin/curl": "usr/bin/curl",
		"./lib64/ld.so": "usr/lib64/ld.so", "./etc/passwd": "etc/passwd", "./library": "library",
	} {
		if got := inUsr(name); got != want {
			t.Errorf("inUsr(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestCatalog: each recipe stands after the one it is on, and the script builds
// each program that one takes.
func TestCatalog(t *testing.T) {
	script, err := os.ReadFile("run")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{"": true, base: true}
	for _, r := range catalog {
		if !seen[r.on] {
			t.Errorf("%s is on %s, which is not before it", r.refs[0], r.on)
		}
		for _, ref := range r.refs {
			if seen[ref] {
				t.Errorf("%s is there twice", ref)
			}
			seen[ref] = true
		}
		for _, p := range r.programs {
			stem := strings.TrimSuffix(p.file, filepath.Ext(p.file))
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(stem) + `\b`).Match(script) {
				t.Errorf("%s wants %s, of which the script run knows nothing", r.refs[0], p.file)
			}
		}
	}
	for _, ref := range alwaysPulled {
		if !seen[ref] {
			t.Errorf("%s is always pulled, but nobody makes it", ref)
		}
	}
}

// TestSuiteVersions: what the suite shares with knarr it has in the same
// version, else it would test with another Kubernetes, and compile all of it again.
func TestSuiteVersions(t *testing.T) {
	ours, suites := versions(t, "../../go.mod"), versions(t, "suite/go.mod")
	if suites["k8s.io/kubernetes"] == "" {
		t.Fatal("suite/go.mod does not require k8s.io/kubernetes")
	}
	for module, version := range suites {
		if own := ours[module]; own != "" && own != version {
			t.Errorf("suite/go.mod has %s %s, knarr's has %s: change it in both", module, version, own)
		}
	}
}

// versions are the modules of a go.mod, each as replaced.
func versions(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) (?:=> \S+ )?(v\S+)`).FindAllStringSubmatch(string(b), -1) {
		found[m[1]] = m[2]
	}
	return found
}
