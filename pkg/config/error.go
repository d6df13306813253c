package config

import (
	"fmt"
	"strings"
)

// ExitUsage is the exit code for a bad command line or configuration.
const ExitUsage = 2

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Where is the flag (--data-dir), the variable (KNARR_DATA_DIR), the key in
	// a file (/etc/knarr/config.yaml:3: data-dir), or the file.
	Where string
	// Value is the value found there, redacted when it is a secret; "" when the
	// problem is not about one value.
	Value string
	// What says what is wrong with it and what is allowed.
	What string
}

// String is the problem on one line: where "value": what.
func (p Problem) String() string {
	if p.Value == "" {
		return p.Where + ": " + p.What
	}
	return fmt.Sprintf("%s %q: %s", p.Where, p.Value, p.What)
}

// Error is everything that is wrong with a configuration, in a fixed order:
// unknown words of the command line, the files from first to last, then the
// flags in the order of the table, then what contradicts each other.
type Error struct{ Problems []Problem }

// Error is one line for one problem and otherwise a list, one line each.
func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "bad configuration: " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "bad configuration, %d problems:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  - " + p.String())
	}
	return b.String()
}

// ExitCode is the exit code main is to end with, always [ExitUsage].
func (e *Error) ExitCode() int { return ExitUsage }
