// Command pack is pkg/bundle/pack for scripts/build-helpers.
//
//	pack image --name NAME --arch ARCH [--entrypoint PATH] --out FILE ROOT
//	pack bundle --arch ARCH --out DIRECTORY STAGE
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/knarr-io/knarr/pkg/bundle/pack"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("pack", flag.ContinueOnError)
	name := flags.String("name", "", "full name of the image")
	entrypoint := flags.String("entrypoint", "", "what the image runs, a path in it")
	arch := flags.String("arch", "", "architecture, by Go's name")
	out := flags.String("out", "", "file (image) or directory (bundle) to write")
	if len(args) == 0 {
		return fmt.Errorf("say image or bundle")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() != 1 || *arch == "" || *out == "" {
		return fmt.Errorf("%s needs --arch, --out and one argument", args[0])
	}
	switch args[0] {
	case "image":
		return image(*name, *arch, *entrypoint, flags.Arg(0), *out)
	case "bundle":
		return bundle(*arch, flags.Arg(0), *out)
	}
	return fmt.Errorf("unknown command %q: say image or bundle", args[0])
}

func image(name, arch, entrypoint, root, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	if err := pack.Image(name, arch, entrypoint, root, f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// bundle writes bundle.tar and manifest.json to the directory out.
func bundle(arch, stage, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(out, "bundle.tar"))
	if err != nil {
		return err
	}
	m, err := pack.Bundle(stage, arch, f)
	if err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "manifest.json"), data, 0o644)
}
