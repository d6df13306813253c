package config

import (
	"strings"
	"unicode"
)

// nearest is the candidate that a misspelt name most likely means, "" when none
// is near. Case, underscores and camelCase are forgiven; beyond that, two slips
// of the pen in a name of five letters or more, one in a shorter one. On a tie
// the earlier candidate wins.
func nearest(name string, candidates []string) string {
	name = kebab(name)
	limit := 2
	if len(name) < 5 {
		limit = 1
	}
	best := ""
	for _, c := range candidates {
		if len(c) == 1 { // one letter is near to everything short
			continue
		}
		if d := distance(name, kebab(c)); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// kebab spells clusterCIDR and cluster_cidr as cluster-cidr.
func kebab(name string) string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte('-')
		}
		lower = unicode.IsLower(r)
		if r == '_' || r == ' ' {
			r = '-'
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.Trim(b.String(), "-")
}

// distance is the number of single-letter changes, insertions, deletions and
// swaps of neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}
