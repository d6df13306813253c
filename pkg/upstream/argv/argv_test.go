package argv

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestMerge(t *testing.T) {
	ours := List{}.With("a", "1", "feature_gates", "X=true", "empty", "", "b", "2")
	got := ours.Merge([]string{"b=3", "--feature-gates=Y=true", "b=4", "switch"})
	want := []string{"--a=1", "--b=3", "--feature-gates=Y=true", "--b=4", "--switch"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestParseNamesTheFlag(t *testing.T) {
	for _, tc := range []struct{ name, arg, says string }{
		{"unknown", "--nope=1", "unknown flag: --nope"},
		{"wrong type", "--count=many", "invalid argument"},
		{"logging", "--v=4", "use knarr's own --v"},
		{"positional", "word", "is not a flag"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
			fs.Int("count", 0, "")
			err := Parse("kubelet-arg", []string{tc.arg}, fs)
			var usage *UsageError
			if !errors.As(err, &usage) || usage.ExitCode() != 2 || !strings.HasPrefix(err.Error(), "--kubelet-arg: ") ||
				!strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	if got := Join([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}); got != "10.0.0.0/8,fd00::/8" {
		t.Errorf("got %s", got)
	}
	if got := Join[netip.Prefix](nil); got != "" {
		t.Errorf("nothing is %q", got)
	}
}
