package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/upstream/coredns"
)

// corednsCommand is what the pods of manifests/coredns.yaml run. It is hidden: nobody else has a use for it.
func corednsCommand() *cli.Command {
	return &cli.Command{
		Name:   "coredns",
		Hidden: true,
		Usage:  "Serve DNS as a Corefile says",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "conf", Usage: "`FILE` with the configuration", Value: "/etc/coredns/Corefile"},
		},
		Action: func(c *cli.Context) error { return coredns.Run(c.Context, c.String("conf")) },
	}
}
