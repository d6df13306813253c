// Command summary reads what `go test -json` prints and shows what a person
// wants to see of it: a line for each package, or with -each for each top-level
// test, and the whole output of what failed. It adds its counts, "passed failed
// skipped", as a line to the file it is given. It ends with 1 when a test
// failed or none ran.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	each := flag.Bool("each", false, "show a line for each top-level test")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: go test -json ... | summary [-each] COUNTS-FILE")
		os.Exit(2)
	}
	s := newSummary(os.Stdout, *each)
	err := s.read(os.Stdin)
	if err != nil {
		s.counts.failed++
	}
	if err := errors.Join(err, s.append(flag.Arg(0))); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	if s.counts.failed > 0 {
		os.Exit(1)
	}
}

// event is one line of test2json(1).
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

type counts struct{ passed, failed, skipped int }

type key struct{ pkg, test string }

type summary struct {
	out    io.Writer
	each   bool
	counts counts
	output map[key]*strings.Builder
	ran    map[string]int // tests per package
	failed map[string]int // tests failed per package
}

func newSummary(out io.Writer, each bool) *summary {
	return &summary{out: out, each: each, output: map[key]*strings.Builder{}, ran: map[string]int{}, failed: map[string]int{}}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				// go test itself speaks plainly when it cannot build.
				fmt.Fprintf(s.out, "%s", line)
			} else {
				s.take(e)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if s.counts == (counts{}) {
		return fmt.Errorf("no test ran")
	}
	return nil
}

func (s *summary) take(e event) {
	if e.Package == "" {
		e.Package = e.ImportPath
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		if s.output[k] == nil {
			s.output[k] = &strings.Builder{}
		}
		s.output[k].WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e)
		}
		delete(s.output, k)
	case "build-fail":
		s.counts.failed++
		fmt.Fprintf(s.out, "FAIL %s does not build\n%s", short(e.Package), s.output[k])
		delete(s.output, k)
	}
}

func (s *summary) endTest(e event) {
	s.ran[e.Package]++
	switch e.Action {
	case "pass":
		s.counts.passed++
	case "skip":
		s.counts.skipped++
		fmt.Fprintf(s.out, "SKIP %s %s\n", short(e.Package), e.Test)
	case "fail":
		s.counts.failed++
		s.failed[e.Package]++
		fmt.Fprintf(s.out, "FAIL %s %s (%.1f s)\n%s", short(e.Package), e.Test, e.Elapsed, s.output[key{e.Package, e.Test}])
	}
	if s.each && e.Action == "pass" && !strings.Contains(e.Test, "/") {
		fmt.Fprintf(s.out, "ok   %s (%.1f s)\n", e.Test, e.Elapsed)
	}
}

// endPackage speaks of a package that has tests. One that fails with none of
// its tests failed has panicked, timed out or not begun.
func (s *summary) endPackage(e event) {
	if e.Action == "fail" && s.failed[e.Package] == 0 {
		s.counts.failed++
		fmt.Fprintf(s.out, "FAIL %s\n", short(e.Package))
		for k, out := range s.output {
			if k.pkg == e.Package {
				fmt.Fprint(s.out, out)
			}
		}
	}
	if n := s.ran[e.Package]; n > 0 {
		fmt.Fprintf(s.out, "%-4s %s: %d tests, %.1f s\n", map[string]string{"pass": "ok", "skip": "skip", "fail": "FAIL"}[e.Action], short(e.Package), n, e.Elapsed)
	}
}

// short leaves out the module's path.
func short(pkg string) string {
	return strings.TrimPrefix(strings.TrimPrefix(pkg, "github.com/knarr-io/knarr"), "/")
}

func (s *summary) append(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, s.counts.passed, s.counts.failed, s.counts.skipped); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
