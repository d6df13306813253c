package logging

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// lineWidth is where a list of components goes on in the next line.
const lineWidth = 80

// title is "knarr v1.37.1+knarr1 server on node-1" and the facts.
func (b *Boot) title() string {
	c := b.config
	return b.paint(bold, fmt.Sprintf("knarr %s", c.Version)) + fmt.Sprintf(" %s on %s\n", c.Role, c.Node) + facts(c.Facts)
}

// facts are indented lines "name       value".
func facts(all []Fact) string {
	var t strings.Builder
	for _, f := range all {
		if f.Value != "" {
			fmt.Fprintf(&t, "  %-10s %s\n", f.Name, f.Value)
		}
	}
	return t.String()
}

// takeReady is "✓    1.2 s  kubelet, kube-proxy", and in plain lines "ready      1.2 s  kubelet, kube-proxy", for those
// that are ready and not shown yet: none the next time.
func (b *Boot) takeReady() string {
	var text, line string
	for i, s := range b.ready {
		switch {
		case i == 0:
			line = b.componentLine(green, "✓", "ready", b.ready[len(b.ready)-1].Since) + s.Name
		case utf8.RuneCountInString(line)+len(", ")+len(s.Name) >= lineWidth:
			text += line + ",\n"
			line = strings.Repeat(" ", utf8.RuneCountInString(b.componentLine("", "✓", "", s.Since))) + s.Name
		default:
			line += ", " + s.Name
		}
	}
	if len(b.ready) > 0 {
		text += line + "\n"
	}
	b.ready = nil
	return text
}

// failed tells why, too, but not of an optional component: the group logs that.
func (b *Boot) failed(s lifecycle.Status) string {
	if s.Optional {
		return b.componentLine(yellow, "!", "failed", s.Since) + s.Name + "  (goes on without it)\n"
	}
	var t strings.Builder
	t.WriteString(b.componentLine(red, "✗", "failed", s.Since) + s.Name + "\n")
	for line := range strings.Lines(s.LastError) {
		t.WriteString("    ")
		t.Write(appendEscaped(nil, strings.TrimRight(line, "\n")))
		t.WriteByte('\n')
	}
	for _, line := range b.config.Help {
		t.WriteString(line + "\n")
	}
	return t.String()
}

// componentLine is the beginning of a line about components.
func (b *Boot) componentLine(colour, mark, word string, at time.Time) string {
	if !b.tty {
		mark = fmt.Sprintf("%-8s", word)
	}
	if colour != "" {
		mark = b.paint(colour, mark)
	}
	return mark + fmt.Sprintf(" %5s s  ", b.seconds(at))
}

// seconds is the time since the process was executed.
func (b *Boot) seconds(at time.Time) string {
	return fmt.Sprintf("%.1f", at.Sub(b.config.Started).Seconds())
}

// result is the end of a boot; the latest of all components tells how long it took.
func (b *Boot) result(all []lifecycle.Status) string {
	latest := b.config.Started
	for _, s := range all {
		if s.Since.After(latest) {
			latest = s.Since
		}
	}
	return b.paint(bold, fmt.Sprintf("Ready in %s s", b.seconds(latest))) + "\n" + facts(b.config.Result)
}

// waiting is "3.2 s  12 of 20 ready, waiting for kubelet, traefik": those that are at
// work, or if there is none, those that wait for others. With columns given it is cut
// off there.
func (b *Boot) waiting(all []lifecycle.Status, columns int) string {
	var working, idle []string
	ready := 0
	for _, s := range all {
		switch {
		case !pending(s):
			ready++
		case s.State == lifecycle.Waiting:
			idle = append(idle, s.Name)
		default:
			working = append(working, s.Name)
		}
	}
	if len(working) == 0 {
		working = idle
	}
	line := fmt.Sprintf("%5s s  %d of %d ready, waiting for %s",
		b.seconds(time.Now()), ready, len(all), strings.Join(working, ", "))
	if b.tty {
		return cut("  "+line, columns)
	}
	return fmt.Sprintf("%-8s ", "waiting") + line
}

// cut shortens a line to a number of columns, one for each rune.
func cut(line string, columns int) string {
	if utf8.RuneCountInString(line) <= columns {
		return line
	}
	runes := []rune(line)
	return string(runes[:max(columns-1, 0)]) + "…"
}

func (b *Boot) paint(colour, text string) string {
	if !b.style.colour {
		return text
	}
	return colour + text + plain
}
