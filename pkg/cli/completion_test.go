package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// completed are commands of all kinds to be completed.
func completed(env Env) []*cli.Command {
	return []*cli.Command{statusCommand(env), stopCommand(env), uninstallCommand(env), checkConfigCommand(env), crictlCommand(env), completionCommand(env)}
}

func TestComplete(t *testing.T) {
	for line, want := range map[string]string{
		"":                        "check-config completion crictl status stop uninstall",
		"st":                      "status stop",
		"status ":                 "",
		"status -":                "--help --output --run-dir",
		"status --o":              "--output",
		"status -o ":              "json table",
		"status --output j":       "json",
		"status --output=json -r": "",
		"-":                       "--help --version",
		"crictl p":                "pods ps pull",
		"crictl -r unix:///x po":  "pods",
		"crictl ps -o ":           "json table yaml",
		"crictl logs --ti":        "--timestamps",
		"crictl stop abc ":        "",
		"completion ":             "bash fish zsh",
		"nonsense ":               "",
	} {
		var got []string
		for _, word := range complete(completed(Env{}), strings.Split(line, " ")) {
			name, _, _ := strings.Cut(word, "\t")
			got = append(got, name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q gives %q, want %q", line, got, want)
		}
	}
}

// The script is run by bash itself, with this test executable in the place of knarr.
func TestBashCompletes(t *testing.T) {
	c := newCommand(t)
	if code := c.run(t, completionCommand, "bash"); code != 0 {
		t.Fatal(&c.stderr)
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "completion")
	if err := os.WriteFile(script, c.stdout.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	test, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	knarr := fmt.Sprintf("#!/bin/sh\n%s=complete exec %s \"$@\"\n", role, test)
	if err := os.WriteFile(filepath.Join(dir, "knarr"), []byte(knarr), 0o755); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][]string{
		"knarr st":        {"status", "stop"},
		"knarr status -o": nil, // --output begins with two dashes
		"knarr status --": {"--help", "--output", "--run-dir"},
		"knarr crictl ":   {"attach", "exec", "images"},
	} {
		words := strings.Split(line, " ")
		run := fmt.Sprintf(`source %s; COMP_WORDS=(%s); COMP_CWORD=%d; [[ "%s" == *" " ]] && COMP_WORDS+=(""); _knarr; printf '%%s\n' "${COMPREPLY[@]}"; complete -p knarr >&2`,
			script, strings.TrimSpace(line), len(words)-1, line)
		cmd := exec.Command("bash", "-c", run)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("bash: %v\n%s", err, &stderr)
		}
		got := strings.Fields(string(out))
		if len(got) > 3 {
			got = got[:3]
		}
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%q completes to %q, want %q", line, got, want)
		}
		contains(t, stderr.String(), "-F _knarr knarr")
	}
}

func TestCompletionUsage(t *testing.T) {
	c := newCommand(t)
	for _, shell := range shells() {
		if code := c.run(t, completionCommand, shell); code != 0 || !strings.Contains(c.stdout.String(), "completion __words") {
			t.Errorf("%s: exit code %d: %s", shell, code, &c.stderr)
		}
	}
	for _, args := range [][]string{nil, {"csh"}, {"bash", "zsh"}} {
		if code := c.run(t, completionCommand, args...); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
}
