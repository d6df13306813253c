package version

import (
	"fmt"
	"runtime"

	"github.com/traefik/paerser/cli"
	"github.com/traefik/traefik/v3/pkg/version"
)

func NewCmd() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Description: "Shows the current Traefik version.",
		Run: func([]string) error {
			_, err := fmt.Println("Traefik", version.Version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
			return err
		},
	}
}
