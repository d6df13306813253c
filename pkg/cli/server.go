package cli

import (
	"context"
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/logging"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/pkg/server"
)

func serverCommand(env Env, notify sdnotify.Notifier) *cli.Command {
	return configured(env, config.RoleServer, &cli.Command{
		Name:  "server",
		Usage: "Run a server: a control plane and a node, until it is asked to stop",
	}, func(ctx context.Context, in config.Input) (err error) {
		start := time.Now()
		c, err := config.LoadServer(in)
		if err != nil {
			return err
		}
		handler, closer, err := logging.New(logging.Config{
			Debug: c.Logging.Debug, File: c.Logging.File, AlsoToStderr: c.Logging.AlsoToStderr,
		}, env.Stderr)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closer.Close()) }()
		return server.Run(ctx, c, server.Process{Handler: handler, Notify: notify, Start: start})
	})
}
