package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// outcome is how one test ended.
type outcome struct {
	name   string
	state  string // "passed", "failed", "skipped"
	took   time.Duration
	output string // all that Ginkgo says of it
}

// Ginkgo's report of a test in a parallel run (reporters/default_reporter.go,
// DidRun): a delimiter, a header, the texts of the test, and more up to the next
// delimiter.
var (
	header = regexp.MustCompile(`^([•SP])(?: \[([A-Z!]+)\])? \[([0-9.]+) seconds\]$`)
	// node is what marks the part of a test that failed.
	node = regexp.MustCompile(` \[(?:It|BeforeEach|JustBeforeEach|AfterEach|JustAfterEach|BeforeAll|AfterAll|DeferCleanup \([A-Za-z]+\))\]`)
)

const delimiter = "------------------------------"

// readReport reads Ginkgo's output to its end and hands on each test of names
// as it ends. What comes of other tests, or between them, it passes over.
func readReport(r io.Reader, names []string, found func(outcome) error) error {
	in := bufio.NewReader(r)
	var o *outcome
	var text strings.Builder
	for {
		line, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the suite's output: %w", err)
		}
		ended := err == io.EOF
		line = strings.TrimSuffix(line, "\n")
		switch {
		case o == nil:
			o = parseHeader(line)
			text.Reset()
		case line == delimiter || ended:
			o.output = text.String()
			if o.name != "" {
				if err := found(*o); err != nil {
					return err
				}
			}
			o = nil
		case text.Len() == 0:
			o.name = nameIn(line, names)
			fallthrough
		default:
			text.WriteString(line + "\n")
		}
		if ended {
			return nil
		}
	}
}

func parseHeader(line string) *outcome {
	m := header.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	seconds, err := strconv.ParseFloat(m[3], 64)
	if err != nil {
		return nil
	}
	o := &outcome{state: "failed", took: time.Duration(seconds * float64(time.Second))}
	switch {
	case m[1] != "•":
		o.state = "skipped"
	case m[2] == "":
		o.state = "passed"
	}
	return o
}

// nameIn finds the test that a line begins with; labels may follow.
func nameIn(line string, names []string) string {
	line = node.ReplaceAllString(line, "")
	longest := ""
	for _, n := range names {
		if strings.HasPrefix(line, n) && len(n) > len(longest) {
			longest = n
		}
	}
	return longest
}
