// Command sh is the shell of the images: Debian's busybox, by whose messages
// the tests know a shell, or bash where a variable has a name like "data-1":
// Debian's busybox drops those, upstream's hands them on.
package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"syscall"
)

var usual = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

func main() {
	shell := "/usr/bin/busybox"
	if slices.ContainsFunc(os.Environ(), func(v string) bool { return !usual.MatchString(v) }) {
		shell = "/usr/bin/bash"
	}
	// Busybox is what it is called.
	if err := syscall.Exec(shell, os.Args, os.Environ()); err != nil {
		fmt.Fprintln(os.Stderr, "execute", shell+":", err)
		os.Exit(127)
	}
}
