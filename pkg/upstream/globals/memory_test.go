package globals

import (
	"reflect"
	"strings"
	"testing"
)

func TestImageRegions(t *testing.T) {
	const maps = `00400000-05a00000 r-xp 00000000 08:01 123 /usr/local/bin/knarr
05a00000-0c000000 r--p 05600000 08:01 123 /usr/local/bin/knarr
0c000000-0c100000 rw-p 0bc00000 08:01 123 /usr/local/bin/knarr
0c100000-0c200000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r--p 00000000 08:01 9 /usr/local/bin/knarr (deleted)
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
`
	got, err := imageRegions(strings.NewReader(maps), "/usr/local/bin/knarr")
	if want := []region{{0x400000, 0x5a00000}, {0x5a00000, 0xc000000}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %x, %v", got, err)
	}
	if got, err := imageRegions(strings.NewReader("zz-1 r--p 0 0 0 /x\n"), "/x"); err == nil {
		t.Errorf("of nonsense: %v", got)
	}
}

// TestReleaseMemory releases the test's own, which goes on.
func TestReleaseMemory(t *testing.T) {
	if err := ReleaseMemory(); err != nil {
		t.Error(err)
	}
}
