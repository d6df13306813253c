package datadir

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"
)

// release is a version such as v1.37.1+knarr2: the Kubernetes in it, and how
// often knarr was released with that.
type release struct {
	kubernetes string // v1.37.1 or v1.37.1-rc.1
	knarr      int
}

// parseRelease parses a version. What follows the number of the build
// (+knarr2.dirty, +knarr2-5-gabcdef) does not count; without +knarrN it is 0.
func parseRelease(text string) (release, error) {
	if !semver.IsValid(text) {
		return release{}, fmt.Errorf("%q is not a version such as v1.37.1+knarr1", text)
	}
	r := release{kubernetes: semver.Canonical(text)}
	build, ok := strings.CutPrefix(semver.Build(text), "+knarr")
	if !ok {
		return r, nil
	}
	if end := strings.IndexFunc(build, func(c rune) bool { return c < '0' || c > '9' }); end >= 0 {
		build = build[:end]
	}
	n, err := strconv.Atoi(build)
	if err != nil {
		return release{}, fmt.Errorf("%q has no number after +knarr", text)
	}
	r.knarr = n
	return r, nil
}

// compare is below, at or above zero as r is older than, as old as or newer
// than s.
func (r release) compare(s release) int {
	return cmp.Or(semver.Compare(r.kubernetes, s.kubernetes), cmp.Compare(r.knarr, s.knarr))
}
