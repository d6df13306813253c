package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/upstream/kubectl"
)

// adminKubeconfig is where the server writes the administrator's kubeconfig unless told otherwise.
const adminKubeconfig = "/etc/knarr/knarr.yaml"

func kubectlCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:            "kubectl",
		Usage:           "Talk to the cluster (upstream's kubectl; uses " + adminKubeconfig + " unless KUBECONFIG is set)",
		SkipFlagParsing: true,
		HideHelp:        true,
		Action: func(c *cli.Context) error {
			path := env.getenv(env.path(adminKubeconfig), "KNARR_KUBECONFIG_OUTPUT")
			if env.getenv("", "KUBECONFIG") != "" {
				path = ""
			}
			return kubectl.Run(c.Context, kubectl.Options{
				Args: c.Args().Slice(), Kubeconfig: path, In: env.Stdin, Out: env.Stdout, ErrOutput: env.Stderr,
			})
		},
	}
}
