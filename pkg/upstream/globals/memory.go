package globals

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReleaseMemory gives back to the kernel what only the start needed: heap, and the pages of the executable, of which a
// start touches most and the rest of the life a third. The error is for the log: nothing depends on it.
func ReleaseMemory() error {
	debug.FreeOSMemory()
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the executable: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("find the executable's pages: %w", err)
	}
	regions, err := imageRegions(maps, path)
	return errors.Join(err, maps.Close(), pageOut(regions))
}

// region is a range of addresses.
type region struct{ start, end uintptr }

// imageRegions are those mapped from the file at path that the process does not write to (proc(5), /proc/pid/maps).
func imageRegions(maps io.Reader, path string) ([]region, error) {
	var regions []region
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || strings.Join(f[5:], " ") != path || strings.Contains(f[1], "w") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read the executable's pages: %w", err)
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read the executable's pages: %w", err)
		}
		regions = append(regions, region{uintptr(start), uintptr(end)})
	}
	return regions, lines.Err()
}

// pageOut has the kernel reclaim pages now, as it would under pressure. MADV_DONTNEED would leave them in the page cache
// in large folios, and one touch would map a whole one again; a page that was reclaimed comes back with few neighbours.
// Pages that another process maps as well stay (mm/madvise.c, madvise_cold_or_pageout_pte_range).
func pageOut(regions []region) error {
	for _, r := range regions {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_PAGEOUT); errno != 0 {
			return fmt.Errorf("page out the executable: %w", errno) // EINVAL: a kernel before 5.4
		}
	}
	return nil
}
