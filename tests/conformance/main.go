// Command conformance runs Kubernetes' own conformance suite against two nodes
// of knarr on test hosts. The script run beside it builds what it needs and
// starts it. It is not a test suite of its own: which tests there are, and
// whether they pass, only Kubernetes says.
//
// How it stops: when all tests have ended, or on an interrupt, which ends the
// test hosts too. What has passed is written down at once and not run again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

func main() { os.Exit(cluster.Main("conformance", all)) }

// all runs the tests that are asked for. That one has failed is an error.
func all(ctx context.Context) error {
	failed, err := run(ctx)
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d tests have failed", failed)
	}
	return err
}

// options are the command line.
type options struct {
	built  string // directory of what the script run has built
	images string // archive of the images, made if it is not there
	root   string // of the checkout
	state  string // directory of results
	only   string // file with the names of the tests to run
	page   string // file to write the list of all tests to
	count  string // file to append "passed failed skipped" to
	focus  *regexp.Regexp
	procs  int
	limit  time.Duration
	again  bool
}

func parseOptions() (options, error) {
	o := options{focus: regexp.MustCompile("")}
	flag.StringVar(&o.built, "built", "", "directory of what tests/conformance/run has built")
	flag.StringVar(&o.images, "images", "", "archive of the images, which is made if it is not there")
	flag.StringVar(&o.state, "state", "", "directory of the results; tests that have passed there are not run again")
	flag.StringVar(&o.only, "only", "", "run only the tests named in this file, one a line")
	flag.StringVar(&o.page, "page", "", "write the list of all tests and their results to this file")
	flag.StringVar(&o.count, "count", "", "write how many tests have passed, failed, and were skipped now to this file")
	flag.Func("focus", "run only tests whose names match this regular expression", func(s string) (err error) {
		o.focus, err = regexp.Compile(s)
		return err
	})
	flag.IntVar(&o.procs, "procs", 3, "tests at a time; the serial ones come last, one by one")
	flag.DurationVar(&o.limit, "limit", 6*time.Hour, "stop after this time")
	flag.BoolVar(&o.again, "again", false, "run tests that have passed, too")
	flag.Parse()
	if flag.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %s (see -help)", flag.Arg(0))
	}
	var err error
	o.root, err = os.Getwd()
	return o, err
}

func run(ctx context.Context) (failed int, err error) {
	o, err := parseOptions()
	if err != nil {
		return 0, err
	}
	rec, err := openRecord(o.state)
	if err != nil {
		return 0, err
	}
	all, err := listTests(ctx, o.built)
	if err != nil {
		return 0, err
	}
	names, err := o.chosen(all)
	if err != nil {
		return 0, err
	}
	pending := names
	if !o.again {
		pending = rec.missing(names)
	}
	begun := time.Now()
	now := &tally{}
	if len(pending) > 0 {
		err = runOnCluster(ctx, o, rec, pending, now)
	}
	fmt.Printf("\n%d tests: %d passed (%d of them now), %d failed, %d skipped, %d not run; %s\n",
		len(names), len(names)-len(rec.missing(names)), now.passed, now.failed, now.skipped, len(pending)-now.passed-now.failed-now.skipped,
		time.Since(begun).Round(time.Second))
	if err == nil && o.page != "" {
		err = os.WriteFile(o.page, []byte(rec.document(all)), 0o644)
	}
	if o.count != "" {
		counts := fmt.Sprintf("%d %d 0\n", now.passed, len(pending)-now.passed)
		err = errors.Join(err, os.WriteFile(o.count, []byte(counts), 0o644))
	}
	return len(rec.missing(names)), err
}

// tally counts the outcomes of this run.
type tally struct{ passed, failed, skipped int }

// chosen are the tests that are asked for.
func (o options) chosen(all []string) ([]string, error) {
	names := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return !o.focus.MatchString(n) })
	if o.only == "" {
		return names, nil
	}
	b, err := os.ReadFile(o.only)
	if err != nil {
		return nil, fmt.Errorf("read the names of tests: %w", err)
	}
	var only []string
	for line := range strings.Lines(string(b)) {
		name := strings.TrimSpace(line)
		switch {
		case name == "" || strings.HasPrefix(name, "#"):
		case !slices.Contains(all, name):
			return nil, fmt.Errorf("%s: there is no conformance test %q", o.only, name)
		case slices.Contains(names, name):
			only = append(only, name)
		}
	}
	return only, nil
}

// listTests asks the suite for the names of its conformance tests.
func listTests(ctx context.Context, built string) ([]string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(built, "e2e.test"), "--list-conformance-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("list the conformance tests: %w", err)
	}
	var tests []struct {
		Codename string `json:"codename"`
	}
	if err := yaml.Unmarshal(out, &tests); err != nil {
		return nil, fmt.Errorf("read the list of conformance tests: %w", err)
	}
	var names []string
	for _, t := range tests {
		names = append(names, t.Codename)
	}
	return names, nil
}

// runOnCluster makes the cluster, runs the tests on it, and writes down how each ends.
func runOnCluster(ctx context.Context, o options, rec *record, pending []string, now *tally) error {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	if err := buildImages(o.built, o.images); err != nil {
		return err
	}
	return cluster.InLab(ctx, func(l *lab.Lab, binary string) error {
		p := &pair{built: o.built, archive: o.images, binary: binary}
		begun := time.Now()
		if err := p.start(ctx, l); err != nil {
			return p.keepLogs(o.state, fmt.Errorf("start the cluster: %w", err))
		}
		version, err := p.version()
		if err != nil {
			return err
		}
		fmt.Printf("%d tests, %d at a time, on two nodes of knarr %s, Ready after %.0f s\n", len(pending), o.procs, version, time.Since(begun).Seconds())
		log, err := os.Create(filepath.Join(o.state, "output-"+begun.Format("20060102-150405")+".log"))
		if err != nil {
			return fmt.Errorf("keep the suite's output: %w", err)
		}
		err = p.suite(ctx, o.procs, pending, log, func(f outcome) error {
			now.add(f)
			fmt.Println(f.line(rec))
			return rec.add(f, version, time.Now())
		})
		if len(pending) > now.passed {
			err = p.keepLogs(o.state, err)
		}
		return errors.Join(err, log.Close())
	})
}

func (t *tally) add(o outcome) {
	switch o.state {
	case "passed":
		t.passed++
	case "skipped":
		t.skipped++
	default:
		t.failed++
	}
}

// line is what a run prints of a test.
func (o outcome) line(rec *record) string {
	if o.state == "passed" {
		return fmt.Sprintf("ok   %6.1f s  %s", o.took.Seconds(), o.name)
	}
	return fmt.Sprintf("%s %6.1f s  %s\n     see %s", strings.ToUpper(o.state[:4]), o.took.Seconds(), o.name, rec.failure(o.name))
}
