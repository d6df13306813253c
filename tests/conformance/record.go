package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// record is what is known of every test, over all runs: a directory with a file
// of one line a result, the newest last, and the output of each failed test.
type record struct {
	dir     string
	results map[string]result
}

// result is the newest outcome of a test.
type result struct {
	state   string
	took    time.Duration
	date    string // of the day
	version string // of knarr
}

const resultsFile = "results"

func openRecord(dir string) (*record, error) {
	if err := os.MkdirAll(filepath.Join(dir, "failed"), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of results: %w", err)
	}
	r := &record{dir: dir, results: map[string]result{}}
	b, err := os.ReadFile(filepath.Join(dir, resultsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read results: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		// A run that was killed may have left half a line.
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 5 || !strings.HasSuffix(line, "\n") {
			continue
		}
		took, err := time.ParseDuration(f[2])
		if err != nil {
			continue
		}
		r.results[f[4]] = result{state: f[0], date: f[1], took: took, version: f[3]}
	}
	return r, nil
}

// add writes an outcome down before anything else learns of it.
func (r *record) add(o outcome, version string, now time.Time) error {
	res := result{state: o.state, took: o.took.Round(100 * time.Millisecond), date: now.Format(time.DateOnly), version: version}
	if o.state == "passed" {
		if err := os.Remove(r.failure(o.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the output of a failure before: %w", err)
		}
	} else if err := os.WriteFile(r.failure(o.name), []byte(o.output), 0o644); err != nil {
		return fmt.Errorf("keep the output of a failure: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, resultsFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s\t%s\t%s\t%s\t%s\n", res.state, res.date, res.took, version, o.name)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	r.results[o.name] = res
	return nil
}

var unsafe = regexp.MustCompile(`[^A-Za-z0-9]+`)

// failure is the file with the output of a failed test.
func (r *record) failure(name string) string {
	slug := strings.Trim(unsafe.ReplaceAllString(name, "-"), "-")
	// Long names differ at their ends; a file's name may have 255 bytes.
	return filepath.Join(r.dir, "failed", slug[max(0, len(slug)-200):]+".log")
}

// missing are the tests that have not passed.
func (r *record) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return r.results[n].state == "passed" })
}

// document is the list of all tests as a page.
func (r *record) document(names []string) string {
	counts := map[string]int{}
	var rows strings.Builder
	sorted := slices.Clone(names)
	slices.SortFunc(sorted, func(a, b string) int { return cmp.Compare(strings.ToLower(a), strings.ToLower(b)) })
	for _, n := range sorted {
		res := r.results[n]
		counts[res.state]++
		fmt.Fprintf(&rows, "| %s | %s | %s | %s |\n", strings.ReplaceAll(n, "|", `\|`), cmp.Or(res.state, "not run"), res.date, res.version)
	}
	return fmt.Sprintf(pageHead, len(names), counts["passed"], counts["failed"], counts[""]+counts["skipped"]) + rows.String()
}
