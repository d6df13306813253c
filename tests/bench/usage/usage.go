// Package usage reads what a process costs, from /proc. It measures one process
// at one moment; what to add up and to compare is its callers' business.
package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc, USER_HZ, a constant of Linux.
const tick = time.Second / 100

// Process is one process's share of the machine.
type Process struct {
	CPU            time.Duration // since its start
	PSS, Anonymous float64       // MiB
}

// Read reads the process with a number as the machine counts.
func Read(pid int) (Process, error) {
	var p Process
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, fmt.Errorf("read CPU time: %w", err)
	}
	// proc_pid_stat(5): utime and stime are fields 14 and 15; what comes before
	// the last parenthesis is the name.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return p, fmt.Errorf("read CPU time: %w", err)
		}
		p.CPU += time.Duration(n) * tick
	}
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return p, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(rollup)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kib); n == 1 {
			p.PSS = kib / 1024
		}
		if n, _ := fmt.Sscanf(line, "Pss_Anon: %f kB", &kib); n == 1 {
			p.Anonymous = kib / 1024
		}
	}
	return p, nil
}
