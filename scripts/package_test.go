package scripts

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackage makes a release twice and wants the same bytes, each packed file with what it was made of, and checksums
// as install.sh looks for them.
func TestPackage(t *testing.T) {
	stuff := make([]byte, 3<<20) // so that there is more than one block to compress
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(stuff[:1<<20]) // never fails
	var first map[string]string
	for round, umask := range []string{"022", "077"} {
		dir := t.TempDir()
		for i, name := range []string{"knarr", "knarr-arm64", "knarr-armhf"} {
			stuff[0] = byte(i)
			if err := os.WriteFile(filepath.Join(dir, name), stuff, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "knarr.debug"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", "umask "+umask+" && exec ./package --output "+dir).CombinedOutput()
		if err != nil || strings.Count(string(out), "\n") != 9 {
			t.Fatalf("package: %v, a line for each of 9 files wanted:\n%s", err, out)
		}
		got := sums(t, dir)
		if first == nil {
			first = got
		}
		for name, sum := range first {
			if got[name] != sum {
				t.Errorf("round %d: %s has changed", round, name)
			}
		}
		unpacked(t, dir, "knarr.zst", "zstd", "-dc", "--long=26")
		unpacked(t, dir, "knarr.gz", "gzip", "-dc")
		check := exec.Command("sha256sum", "--check", "--strict", "--quiet", "sha256sums")
		check.Dir = dir
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("sha256sums: %v\n%s", err, out)
		}
		list, err := os.ReadFile(filepath.Join(dir, "sha256sums"))
		if err != nil || !strings.Contains(string(list), first["knarr.zst"]+"  knarr.zst\n") || strings.Contains(string(list), "debug") {
			t.Errorf("sha256sums, %v:\n%s", err, list)
		}
	}
	if out, err := exec.Command("./package", "--output", t.TempDir()).CombinedOutput(); err == nil || !strings.Contains(string(out), "run scripts/build") {
		t.Errorf("package of nothing: %v\n%s", err, out)
	}
}

// sums are the checksums of all files.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		out[filepath.Base(f)] = hex.EncodeToString(sum[:])
	}
	return out
}

// unpacked requires that a packed file has in it what it is named for.
func unpacked(t *testing.T, dir, name string, command ...string) {
	t.Helper()
	got, err := exec.Command(command[0], append(command[1:], filepath.Join(dir, name))...).Output()
	if err != nil {
		t.Fatalf("unpack %s: %v", name, err)
	}
	want, err := os.ReadFile(filepath.Join(dir, strings.TrimSuffix(name, filepath.Ext(name))))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s does not unpack to what was packed (%v)", name, err)
	}
}

// TestImage follows the Dockerfile without Docker: its RUN lines on a copy of this host, which is Debian as the base image
// is, with an apt-get that only notes what is asked for; then its COPY lines, with a knarr that
// only pretends; and it looks at what came out.
func TestImage(t *testing.T) {
	lines := dockerfile(t)
	var script strings.Builder
	script.WriteString("cat >/usr/local/bin/apt-get <<'EOF'\n#!/bin/sh\necho \"$@\" >>/asked\nEOF\nchmod 755 /usr/local/bin/apt-get\n")
	script.WriteString("PATH=/usr/local/bin:$PATH\nmkdir -p /etc/ssl/certs /dist; echo certificates >/etc/ssl/certs/ca-certificates.crt\n")
	script.WriteString("cp /fake/knarr /dist/knarr\n")
	seen := map[string]int{}
	for _, l := range lines {
		word, rest, _ := strings.Cut(l, " ")
		seen[word]++
		switch word {
		case "RUN":
			script.WriteString("(" + rest + ")\n")
		case "COPY":
			script.WriteString(copyLine(t, rest))
		}
	}
	for word, want := range map[string]int{"FROM": 2, "RUN": 2, "COPY": 2, "ENTRYPOINT": 1, "CMD": 1, "HEALTHCHECK": 1} {
		if seen[word] != want {
			t.Errorf("the Dockerfile has %d lines %s, this test knows of %d", seen[word], word, want)
		}
	}
	script.WriteString(`
		has 'install -y --no-install-recommends ca-certificates' /asked
		cd /out
		[ "$(find . -type f | sort | tr '\n' ' ')" = './bin/knarr ./etc/group ./etc/passwd ./etc/ssl/certs/ca-certificates.crt ' ]
		for name in kubectl crictl ctr; do [ "$(readlink bin/$name)" = knarr ]; done
		[ "$(readlink var/run)" = /run ]
		[ "$(stat -c %a tmp)" = 1777 ]
		[ "$(stat -c %a bin/knarr)" = 755 ]
		for dir in root run etc/ssl/certs; do [ -d $dir ]; done
	`)
	run(t, script.String())
}

// dockerfile is the Dockerfile's instructions, each on one line.
func dockerfile(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range strings.Split(strings.ReplaceAll(string(data), "\\\n", " "), "\n") {
		if l != "" && !strings.HasPrefix(l, "#") {
			lines = append(lines, l)
		}
	}
	return lines
}

// copyLine is a COPY of the final stage as a command that fills /out.
func copyLine(t *testing.T, rest string) string {
	t.Helper()
	mode, words := "", strings.Fields(strings.ReplaceAll(rest, "${BINARY}", "dist/knarr"))
	stage := ""
	for strings.HasPrefix(words[0], "--") {
		name, value, _ := strings.Cut(strings.TrimPrefix(words[0], "--"), "=")
		switch name {
		case "from":
			stage = value
		case "chmod":
			mode = value
		default:
			t.Fatalf("COPY --%s: this test does not know it", name)
		}
		words = words[1:]
	}
	if len(words) != 2 {
		t.Fatalf("COPY %s: want one source and one target", rest)
	}
	if stage != "" {
		return fmt.Sprintf("mkdir -p /out%s && cp -a %s/. /out%s\n", words[1], words[0], words[1])
	}
	return fmt.Sprintf("cp /%s /out%s && chmod %s /out%s\n", words[0], words[1], mode, words[1])
}
