package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/token"
)

// installer is where the newest install.sh is.
const installer = "https://github.com/knarr-io/knarr/releases/latest/download/install.sh"

func joinCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "join-command", Usage: "Print the line that makes another machine an agent or a server of this cluster",
		Description: "With the agents' token, or with --ttl a new bootstrap token that expires; for a server with the server\n" +
			"token. Keep the line secret.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "server", Aliases: []string{"s"}, Usage: "`URL` that the other machine shall use; the address that the servers announce when not given"},
			&cli.StringFlag{Name: "role", Value: "agent", Usage: "`ROLE` of the other machine: agent or server"},
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
			role := c.String("role")
			line := fmt.Sprintf("knarr %s --server %s --token %s", role, url, t.Reveal())
			if c.Bool("install") {
				line = fmt.Sprintf("curl -sfL %s | KNARR_URL=%s KNARR_TOKEN=%s sh -", installer, url, t.Reveal())
				if role == "server" {
					line += "s server"
				}
			}
			return printLine(env, line)
		}),
	}
}

// joinToken is the server token for servers, and for agents a new bootstrap token if it is to expire, else theirs.
func joinToken(ctx context.Context, env Env, c *cli.Context, cluster reached) (token.Token, error) {
	switch role := c.String("role"); {
	case role == "server" && c.IsSet("ttl"):
		return token.Token{}, usagef("--ttl: a token that expires joins agents only")
	case role == "server":
		t, err := tokenStore(env, c).Load()
		if err == nil && t.IsZero() {
			err = fmt.Errorf("%s is not there: run this on a server", tokenStore(env, c).Path())
		}
		return t, err
	case role != "agent":
		return token.Token{}, usagef("--role %q: want agent or server", role)
	case c.IsSet("ttl"):
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
		Description: "Run it on one server. From then on machines join with the new token only. Those that have joined are not\n" +
			"touched: they have certificates. Other servers follow at once, and those that are down when they start. A\n" +
			"server that is started with --token or a token file must be given the new one before its next start.",
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
			if err := printLine(env, made.Reveal()); err != nil {
				return err
			}
			err = control.NewClient(env.path(c.String("run-dir"))).SyncToken(c.Context)
			if err != nil && !errors.Is(err, control.ErrNotRunning) {
				return failf("this server has the new token, and other servers are not told before it is started again: %w", err)
			}
			return nil
		},
	}
}
