package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/token"
)

// installer is where the newest install.sh is.
const installer = "https://github.com/knarr-io/knarr/releases/latest/download/install.sh"

func joinCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "join-command", Usage: "Print the line that makes another machine an agent of this cluster",
		Description: "With the agents' token, or with --ttl a new bootstrap token that expires. Keep the line secret.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "server", Aliases: []string{"s"}, Usage: "`URL` that the other machine shall use; the address that the servers announce when not given"},
			&cli.StringFlag{Name: "ttl", Usage: "make a bootstrap token that expires after `TIME`, such as 1h"},
			&cli.BoolFlag{Name: "install", Usage: "a line for a machine without knarr: download, install, run as a service"},
			dataDirFlag(), runDirFlag(), kubeconfigFlag(),
		},
		Action: clusterAction(env, func(ctx context.Context, env Env, c *cli.Context, cluster reached) error {
			if err := noArguments(c); err != nil {
				return err
			}
			url := c.String("server")
			if url == "" {
				var err error
				if url, err = cluster.serverURL(ctx); err != nil {
					return err
				}
			}
			t, err := joinToken(ctx, env, c, cluster)
			if err != nil {
				return err
			}
			line := fmt.Sprintf("knarr agent --server %s --token %s", url, t.Reveal())
			if c.Bool("install") {
				line = fmt.Sprintf("curl -sfL %s | KNARR_URL=%s KNARR_TOKEN=%s sh -", installer, url, t.Reveal())
			}
			return printLine(env, line)
		}),
	}
}

// joinToken is a new bootstrap token if it is to expire, else the agents'.
func joinToken(ctx context.Context, env Env, c *cli.Context, cluster reached) (token.Token, error) {
	if c.IsSet("ttl") {
		return newBootstrap(ctx, cluster, token.GenerateBootstrap(), bootstrapRequest{
			ttl: c.String("ttl"), usages: strings.Join(join.Usages(), ","), groups: join.NodeGroup, description: "knarr token join-command",
		})
	}
	store := tokenStore(env, c)
	t, err := store.LoadAgent()
	if err != nil {
		return t, err
	}
	if t.IsZero() {
		return t, fmt.Errorf("%s is not there: run this on a server, or give --ttl for a bootstrap token", store.AgentPath())
	}
	return t.As(token.UserNode), nil
}

func tokenStore(env Env, c *cli.Context) token.Store {
	return token.Store{ServerDir: env.path(datadir.New(dataDir(c, env)).Server())}
}

func rotateCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "rotate", Usage: "Replace the server's token",
		Description: "Run it on a server. From then on machines join with the new token only. Those that have joined are not\n" +
			"touched: they have certificates. A server that is started with --token or a token file must be given the\n" +
			"new one before its next start.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "token", Aliases: []string{"t"}, Usage: "the `TOKEN` in use, to make sure that it is this cluster's"},
			&cli.StringFlag{Name: "new-token", EnvVars: []string{"KNARR_NEW_TOKEN"}, Usage: "the new `TOKEN`; a random one when not given"},
			dataDirFlag(), runDirFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			var old, fresh token.Token
			for flag, into := range map[string]*token.Token{"token": &old, "new-token": &fresh} {
				if text := c.String(flag); text != "" {
					var err error
					if *into, err = token.Parse(text); err != nil {
						return usagef("--%s: %w", flag, err)
					}
				}
			}
			made, err := tokenStore(env, c).Rotate(old, fresh)
			if errors.Is(err, token.ErrMismatch) || errors.Is(err, token.ErrUnusable) {
				return usagef("%w", err)
			}
			if err != nil {
				return failf("%w", err)
			}
			return printLine(env, made.Reveal())
		},
	}
}
