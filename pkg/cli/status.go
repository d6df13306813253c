package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// terminalWidth is what output for a person fits into.
const terminalWidth = 80

// runDirFlag names the run directory, for several knarr on one host in tests.
func runDirFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "run-dir", Value: control.DefaultDir, EnvVars: []string{"KNARR_RUN_DIR"},
		Usage: "`DIR` of the control socket and the pid file",
	}
}

func statusCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "Show every component: its state, since when, what it waits for, its last error",
		Description: "Asks the running knarr process. The exit code is 0 when all components are ready,\n" +
			"and 1 when one is not, or when knarr does not run.",
		Flags: []cli.Flag{
			tableOrJSON(),
			runDirFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			format, err := outputFormat(c)
			if err != nil {
				return err
			}
			return status(c.Context, env, env.path(c.String("run-dir")), format)
		},
	}
}

// tableOrJSON chooses between output for people and for programs.
func tableOrJSON() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: formatTable, Usage: "`FORMAT`: table or json"}
}

// The values of tableOrJSON.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// outputFormat is what tableOrJSON says.
func outputFormat(c *cli.Context) (string, error) {
	format := c.String("output")
	if format != formatTable && format != formatJSON {
		return "", usagef("--output %q: want table or json", format)
	}
	return format, nil
}

// noArguments refuses what is left after the flags.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("%s: unexpected argument %q; see `knarr %s --help`", c.Command.Name, c.Args().First(), c.Command.Name)
	}
	return nil
}

func status(ctx context.Context, env Env, dir, format string) error {
	s, err := control.NewClient(dir).Status(ctx)
	if err != nil {
		return noStatus(env, dir, err)
	}
	if format == formatJSON {
		encoder := json.NewEncoder(env.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(s)
	} else {
		_, err = io.WriteString(env.Stdout, statusText(s, time.Now(), env.colours(env.Stdout)))
	}
	if err != nil {
		return failf("write status: %w", err)
	}
	if names := notReady(s); len(names) > 0 {
		return failf("not ready: %s", strings.Join(names, ", "))
	}
	return nil
}

// noStatus explains why there is no answer, and where the reason may be found.
func noStatus(env Env, dir string, err error) error {
	if !errors.Is(err, control.ErrNotRunning) {
		return failf("%w", err)
	}
	if pid, lockErr := control.LockedPID(dir); lockErr == nil {
		return failf("knarr (pid %d) is running but does not answer yet: try again in a few seconds", pid)
	}
	if hint := lastWords(env); hint != "" {
		if _, err := io.WriteString(env.Stderr, hint); err != nil {
			return failf("write status: %w", err)
		}
	}
	return failf("%w; start it with `knarr server`", err)
}

// logFile is where install.sh lets knarr log without systemd.
const logFile = "/var/log/knarr.log"

// lastLines is how much of the log `knarr status` shows of a process that ended.
const lastLines = 10

// lastWords is the end of the log of a knarr that does not run, or where to look.
func lastWords(env Env) string {
	if _, err := os.Stat(env.path("/run/systemd/system")); err == nil {
		return "Its log: journalctl -u knarr -n 50\n"
	}
	lines, err := tail(env.path(logFile), lastLines)
	if err != nil || len(lines) == 0 {
		return "" // never started as a service on this host
	}
	return fmt.Sprintf("The last lines of %s:\n  %s\n", logFile, strings.Join(lines, "\n  "))
}

// tail returns the last n lines of a file, reading at most 64 KiB of it.
func tail(path string, n int) ([]string, error) {
	const most = 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	start := max(0, info.Size()-most)
	data, err := io.ReadAll(io.NewSectionReader(file, start, most))
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	text := strings.TrimRight(string(data), "\n")
	if text == "" {
		return nil, nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-n):], nil
}

// notReady names the required components that are not ready.
func notReady(s control.Status) []string {
	var names []string
	for _, c := range s.Components {
		if c.State != lifecycle.Ready && !c.Optional {
			names = append(names, c.Name)
		}
	}
	return names
}

// statusText is the table for a person.
func statusText(s control.Status, now time.Time, colours bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "knarr %s %s on node %s, pid %d, up %s%s\n",
		s.Version, s.Role, s.NodeName, s.PID, age(now.Sub(s.StartTime)), readiness(s))
	for _, line := range [][2]string{
		{"data-dir", s.DataDir}, {"API", s.Endpoint}, {"servers", serversText(s.Servers)}, {"datastore", datastoreText(s.Datastore)}, {"leader", s.Leader}, {"addons", addonsText(s.Addons)}, {"log", s.LogFile},
	} {
		if line[1] != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", line[0], line[1])
		}
	}
	width := len("COMPONENT")
	for _, c := range s.Components {
		width = max(width, len(c.Name))
	}
	fmt.Fprintf(&b, "\n%-*s  %-10s %6s  %s\n", width, "COMPONENT", "STATE", "SINCE", "DETAIL")
	for _, c := range s.Components {
		state := fmt.Sprintf("%-10s", c.State)
		if colours {
			state = stateColour(c.State) + state + "\x1b[0m"
		}
		indent := width + 21
		detail := wrap(componentDetail(c), max(24, terminalWidth-indent), indent)
		line := fmt.Sprintf("%-*s  %s %6s  %s", width, c.Name, state, age(now.Sub(c.Since)), detail)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

func readiness(s control.Status) string {
	switch {
	case s.Stopping:
		return ", stopping"
	case s.Ready != nil:
		return fmt.Sprintf(", ready after %.1f s", s.Ready.Sub(s.StartTime).Seconds())
	default:
		return ", starting"
	}
}

// serversText names an agent's servers and what is between it and each.
func serversText(servers []control.ServerLink) string {
	var texts []string
	for _, s := range servers {
		text := s.Address + " (no tunnel)"
		if s.Tunnel {
			text = s.Address + " (tunnel)"
		}
		if s.Used {
			text = strings.TrimSuffix(text, ")") + ", in use)"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func datastoreText(d *control.Datastore) string {
	if d == nil {
		return ""
	}
	parts := []string{d.Kind}
	if d.Endpoint != "" {
		parts = append(parts, d.Endpoint)
	}
	if d.SizeBytes > 0 {
		parts = append(parts, bytesText(uint64(d.SizeBytes)))
	}
	if d.Revision > 0 {
		parts = append(parts, fmt.Sprintf("revision %d", d.Revision))
	}
	if n := len(d.Members); n > 1 {
		parts = append(parts, membersText(d.Members))
	}
	if d.Error != "" {
		parts = append(parts, "error: "+d.Error)
	}
	return strings.Join(parts, ", ")
}

// addonsText is a line, and one more for each of the first that are in trouble.
func addonsText(a *control.Addons) string {
	if a == nil {
		return ""
	}
	const most = 5
	text := fmt.Sprintf("%d, %d of them not ready", a.Total, len(a.Trouble))
	if len(a.Trouble) == 0 {
		return fmt.Sprintf("%d, all ready", a.Total)
	}
	for _, t := range a.Trouble[:min(most, len(a.Trouble))] {
		const indent = 15
		text += "\n" + strings.Repeat(" ", indent) + wrap(t.Name+" is "+t.State+": "+t.Message, terminalWidth-indent-2, indent+2)
	}
	if len(a.Trouble) > most {
		text += "\n               all of them: knarr kubectl get addons -A"
	}
	return text
}

// membersText counts the members and names the one that leads.
func membersText(members []control.DatastoreMember) string {
	text := fmt.Sprintf("%d members", len(members))
	for _, m := range members {
		if m.Leader {
			text += ", " + m.Name + " leads"
		}
		if m.Learner {
			text += ", " + m.Name + " is catching up"
		}
	}
	return text
}

func componentDetail(c lifecycle.Status) string {
	var parts []string
	if len(c.WaitingFor) > 0 {
		parts = append(parts, "waits for "+strings.Join(c.WaitingFor, ", "))
	}
	if c.LastError != "" {
		parts = append(parts, c.LastError)
	}
	return strings.Join(parts, "; ")
}

// stateColour is the escape sequence a state is shown in.
func stateColour(state lifecycle.State) string {
	switch state {
	case lifecycle.Ready:
		return "\x1b[32m"
	case lifecycle.Failed:
		return "\x1b[31m"
	case lifecycle.Stopped:
		return "\x1b[2m"
	default:
		return "\x1b[33m"
	}
}

// age is a duration in its two largest units: "45s", "12m30s", "3h5m", "12d4h".
func age(d time.Duration) string {
	seconds := int64(max(0, d) / time.Second)
	switch {
	case seconds < 60:
		return fmt.Sprintf("%ds", seconds)
	case seconds < 3600:
		return fmt.Sprintf("%dm%ds", seconds/60, seconds%60)
	case seconds < 24*3600:
		return fmt.Sprintf("%dh%dm", seconds/3600, seconds/60%60)
	default:
		return fmt.Sprintf("%dd%dh", seconds/(24*3600), seconds/3600%24)
	}
}

// bytesText is a size in the binary unit that keeps it short.
func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if unit == 0 || value >= 100 {
		return fmt.Sprintf("%.0f %s", value, units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// wrap breaks text at spaces into lines of at most width columns; lines after
// the first start after indent columns. A word longer than a line stays whole.
func wrap(text string, width, indent int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	lines = append(lines, line)
	return strings.Join(lines, "\n"+strings.Repeat(" ", indent))
}
