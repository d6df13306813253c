package host

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestInterruptedLists has links come and go while the kernel lists them: it is asked again, but not for ever.
func TestInterruptedLists(t *testing.T) {
	for _, test := range []struct{ interrupted, asked int }{{0, 1}, {3, 4}, {100, lists}} {
		asked := 0
		found, err := whole(func() ([]int, error) {
			if asked++; asked <= test.interrupted {
				return nil, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
			}
			return []int{1}, nil
		})
		if asked != test.asked || (err == nil) != (test.interrupted < lists) || (err == nil) != (len(found) == 1) {
			t.Errorf("interrupted %d times: asked %d times, found %v, %v", test.interrupted, asked, found, err)
		}
	}
}
