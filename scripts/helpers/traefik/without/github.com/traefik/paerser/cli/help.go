package cli

import (
	"fmt"
	"io"
	"slices"
)

func isHelp(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == "--help" || a == "-help" || a == "-h" })
}

func PrintHelp(w io.Writer, cmd *Command) error {
	_, err := fmt.Fprintf(w, "%s: %s\nIts options are those of https://doc.traefik.io/traefik/reference/install-configuration/configuration-options/\n",
		cmd.Name, cmd.Description)
	return err
}
