package cli

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/daemon"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/pkg/server"
)

func serverCommand(env Env, notify sdnotify.Notifier) *cli.Command {
	return configured(env, config.RoleServer, &cli.Command{
		Name:  "server",
		Usage: "Run a server: a control plane and a node, until it is asked to stop",
	}, func(ctx context.Context, in config.Input) error {
		start := time.Now()
		c, err := config.LoadServer(in)
		if err != nil {
			return err
		}
		return server.Run(ctx, c, daemon.Process{Stderr: env.Stderr, Notify: notify, Start: start})
	})
}
