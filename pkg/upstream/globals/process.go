package globals

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The files of the process that are read and written.
const (
	oomScoreFile   = "/proc/self/oom_score_adj"
	mountInfoFile  = "/proc/self/mountinfo"
	fewOpenedFiles = 1 << 14
)

// useTempDir makes dir the place of temporary files and empties it. What is
// mounted inside is somebody's data, and stays.
func useTempDir(dir string, log *slog.Logger) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory for temporary files: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list temporary files: %w", err)
	}
	mounts := map[string]bool{}
	if len(entries) > 0 {
		if mounts, err = mountedIn(dir); err != nil {
			return err
		}
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if mounts[e.Name()] {
			log.Warn("left a temporary directory of an earlier run alone, because something is mounted in it", "path", path)
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove temporary file of an earlier run: %w", err)
		}
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return fmt.Errorf("set TMPDIR: %w", err)
	}
	return nil
}

// mountedIn names the entries of dir at or below which something is mounted.
func mountedIn(dir string) (map[string]bool, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve directory for temporary files: %w", err)
	}
	f, err := os.Open(mountInfoFile)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	// How proc(5) writes the characters that would end a field.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	found := map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if below, ok := strings.CutPrefix(unescape.Replace(fields[4]), real+"/"); ok {
			name, _, _ := strings.Cut(below, "/")
			found[name] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return found, nil
}

// setOOMScore makes the kernel kill others first. Containers do not inherit it:
// the runtime sets each one's own.
func setOOMScore(score int, log *slog.Logger) error {
	if score == 0 {
		return nil
	}
	err := os.WriteFile(oomScoreFile, []byte(strconv.Itoa(score)), 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		log.Debug("kept the process's oom_score_adj: lowering it takes CAP_SYS_RESOURCE", "wanted", score)
	case err != nil:
		return fmt.Errorf("set the process's oom_score_adj to %d: %w", score, err)
	}
	return nil
}

// tellLimits looks at the number of files that may be open. Go has raised the soft
// limit to the hard one already, and gives children the original one (os/rlimit.go):
// containers keep the small soft limit that select(2) needs. Setting it here would
// undo that (syscall/rlimit.go:49), so it is only looked at.
func tellLimits(log *slog.Logger) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		log.Debug("the limit of open files is not known", "err", err)
		return
	}
	if l.Max < fewOpenedFiles {
		log.Warn("few files may be open at a time; raise the hard limit (LimitNOFILE in a systemd unit, ulimit -Hn in a shell)",
			"limit", l.Max, "recommended", 1<<20)
	}
}
