package cli

import (
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/upstream/coredns"
)

// corednsCommand is what the pods of manifests/coredns.yaml run. It is hidden: nobody else has a use for it.
func corednsCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:   "coredns",
		Hidden: true,
		Usage:  "Serve DNS as a Corefile says",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "conf", Usage: "`FILE` with the configuration", Value: "/etc/coredns/Corefile"},
			&cli.StringFlag{Name: "snippets", Usage: "`DIRECTORY` of what users add to it", Value: "/etc/coredns/custom"},
		},
		Action: func(c *cli.Context) error {
			log := slog.New(slog.NewTextHandler(env.Stdout, nil))
			return coredns.Run(c.Context, coredns.Config{Corefile: c.String("conf"), Snippets: c.String("snippets")}, log)
		},
	}
}
