package cli

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/daemon"
	"github.com/knarr-io/knarr/pkg/sdnotify"
)

func agentCommand(env Env, notify sdnotify.Notifier) *cli.Command {
	return configured(env, config.RoleAgent, &cli.Command{
		Name:  "agent",
		Usage: "Run an agent: a node of the cluster of a server, until it is asked to stop",
	}, func(ctx context.Context, in config.Input) error {
		start := time.Now()
		c, err := config.LoadAgent(in)
		if err != nil {
			return err
		}
		return agent.Run(ctx, c, daemon.Process{Stderr: env.Stderr, Notify: notify, Start: start})
	})
}
