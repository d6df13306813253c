package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/upstream/ctr"
)

func ctrCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:            "ctr",
		Usage:           "Talk to the containerd inside knarr (containerd's own tool; namespace k8s.io unless another is given)",
		SkipFlagParsing: true,
		HideHelp:        true,
		Action: func(c *cli.Context) error {
			address, namespace := env.path(datadir.NewRun(datadir.DefaultRun).ContainerdSocket()), "k8s.io"
			if env.getenv("", "CONTAINERD_ADDRESS") != "" {
				address = ""
			}
			if env.getenv("", "CONTAINERD_NAMESPACE") != "" {
				namespace = ""
			}
			return ctr.Run(c.Context, address, namespace, c.Args().Slice())
		},
	}
}
