package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/server"
)

func datastoreCommand(env Env) *cli.Command {
	conf := storeSettings(env)
	return &cli.Command{
		Name:  "datastore",
		Usage: "Serve, inspect, compact, check and migrate the datastore by itself",
		Subcommands: []*cli.Command{
			{
				Name:  "serve",
				Usage: "Serve the etcd API alone, for tests, benchmarks and tools",
				Description: "Clients are not asked who they are, so only a socket or a loopback address can be served.\n" +
					"It runs until it is interrupted.",
				Flags: conf.flags(&cli.StringFlag{
					Name: "listen", Value: "tcp://127.0.0.1:2379", Usage: "`ADDRESS`: tcp://127.0.0.1:PORT or unix:///PATH",
				}),
				Action: storeAction(env, conf, serveStore),
			},
			{
				Name:        "status",
				Usage:       "Show revision and size, of a store in use or not",
				Flags:       conf.flags(),
				Action:      storeAction(env, conf, storeStatus),
				Description: "Prints one JSON object.",
			},
			{
				Name:        "compact",
				Usage:       "Delete all history and give the free space back",
				Description: "A running server does it itself, and needs no such help: it compacts every five minutes.",
				Flags:       conf.flags(runDirFlag()),
				Action:      storeAction(env, conf, compactStore),
			},
			{
				Name:  "check",
				Usage: "Read everything and verify it, of a store in use or not",
				Description: "Of SQLite the structure and all checksums are verified. Prints number, size and hash of what\n" +
					"the store holds; stores of different kinds with equal contents have equal hashes. The exit\n" +
					"code is 1 when the store is damaged.",
				Flags:  conf.flags(),
				Action: storeAction(env, conf, checkStore),
			},
			removeMemberCommand(env),
			migrateCommand(env, conf),
		},
	}
}

// storeAction is an action on the store that the settings name.
func storeAction(env Env, conf settings, f func(ctx context.Context, env Env, c *cli.Context, config datastore.Config, log *slog.Logger) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArguments(c); err != nil {
			return err
		}
		s, err := conf.load(c)
		if err != nil {
			return err
		}
		config, err := server.DatastoreConfig(s)
		if err != nil {
			return failf("%w", err)
		}
		log := slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
		return f(c.Context, env, c, config, log)
	}
}

func serveStore(ctx context.Context, _ Env, c *cli.Context, config datastore.Config, log *slog.Logger) error {
	config.Listen = c.String("listen")
	config.Etcd.Address = netip.Addr{} // an etcd by itself has no other members, and no certificates
	store := datastore.New(config, log)
	if err := store.Prepare(ctx); err != nil {
		return usagef("%w", err)
	}
	return store.Run(ctx, func() { log.Info("serving", "listen", config.Listen) })
}

func storeStatus(ctx context.Context, env Env, _ *cli.Context, config datastore.Config, log *slog.Logger) error {
	st, err := datastore.Inspect(ctx, config, log)
	if err != nil {
		return failf("%w", err)
	}
	return printJSON(env, st)
}

func compactStore(ctx context.Context, env Env, c *cli.Context, config datastore.Config, log *slog.Logger) error {
	done, err := compactRunning(ctx, env, c, config)
	if err == nil && !done {
		err = datastore.Compact(ctx, config, log)
	}
	if err != nil {
		return failf("%w", err)
	}
	return storeStatus(ctx, env, nil, config, log)
}

// compactRunning has the server that runs on this host do it; false when there is none, or one with another store.
func compactRunning(ctx context.Context, env Env, c *cli.Context, config datastore.Config) (bool, error) {
	client := control.NewClient(env.path(c.String("run-dir")))
	s, err := client.Status(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if env.path(datadir.New(s.DataDir).DB()) != config.Dir || s.Datastore == nil || s.Datastore.Kind != datastore.Engine(config) {
		return false, nil
	}
	_, err = client.Compact(ctx)
	return true, err
}

// removePatience is how long the other members may take to agree.
const removePatience = 30 * time.Second

func removeMemberCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:      "remove-member",
		Usage:     "Take a server that has no Node out of the cluster of the embedded etcd, for good",
		ArgsUsage: "NODE",
		Description: "For servers with --disable-agent or --disable-apiserver: others leave with kubectl delete node. NODE is\n" +
			"the server's --node-name, else its hostname. It is asked for on another server, whatever its roles, while\n" +
			"that runs. The one that is removed ends, if it still runs, with exit code 3.",
		Flags: []cli.Flag{runDirFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef("want the name of one server: knarr datastore remove-member NODE")
			}
			ctx, cancel := context.WithTimeout(c.Context, removePatience)
			defer cancel()
			names, err := control.NewClient(env.path(c.String("run-dir"))).RemoveMember(ctx, c.Args().First())
			if err != nil {
				return failf("remove the etcd member of %s: %w", c.Args().First(), err)
			}
			for _, name := range names {
				if _, err := fmt.Fprintln(env.Stdout, name, "removed"); err != nil {
					return failf("write result: %w", err)
				}
			}
			return nil
		},
	}
}

func checkStore(ctx context.Context, env Env, _ *cli.Context, config datastore.Config, log *slog.Logger) error {
	sum, err := datastore.Check(ctx, config, log)
	if err != nil {
		return failf("%w", err)
	}
	return printJSON(env, sum)
}

func printJSON(env Env, v any) error {
	encoder := json.NewEncoder(env.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return failf("write result: %w", err)
	}
	return nil
}

func migrateCommand(env Env, conf settings) *cli.Command {
	flags := conf.flags(&cli.StringFlag{
		Name: "to", Required: true,
		Usage: "`URL` of the new datastore, as for --datastore-endpoint, or sqlite:// or etcd-embedded:// for one in --to-dir",
	}, &cli.StringFlag{Name: "to-dir", Usage: "`DIR` for a new database; the data directory's own when not given"})
	for _, name := range []string{"cafile", "certfile", "keyfile"} {
		flags = append(flags, &cli.StringFlag{Name: "to-" + name, Usage: "`FILE`: as --datastore-" + name + ", of the new datastore"})
	}
	return &cli.Command{
		Name:  "migrate",
		Usage: "Copy everything into another, empty datastore and verify it",
		Description: "Servers must be stopped. The old store stays as it is; afterwards start the server with the new\n" +
			"--datastore-endpoint, or without one for SQLite and etcd in the data directory.",
		Flags: flags,
		Action: storeAction(env, conf, func(ctx context.Context, env Env, c *cli.Context, config datastore.Config, log *slog.Logger) error {
			to := datastore.Config{
				Endpoint: c.String("to"), Dir: c.String("to-dir"), Etcd: config.Etcd,
				CAFile: c.String("to-cafile"), CertFile: c.String("to-certfile"), KeyFile: c.String("to-keyfile"),
			}
			if to.Dir == "" {
				to.Dir = config.Dir
			}
			sum, err := datastore.Migrate(ctx, config, to, log)
			if err != nil {
				return failf("%w", err)
			}
			aside, err := datastore.PutAside(config, to)
			if err != nil {
				return failf("the new datastore is complete and verified, but the old one is in its way: %w", err)
			}
			if err := printJSON(env, sum); err != nil {
				return err
			}
			note := "Verified. The old datastore was not changed."
			if aside != "" {
				note = "Verified. The old datastore is in " + aside + " now."
			}
			_, err = fmt.Fprintln(env.Stderr, note)
			return err
		}),
	}
}
