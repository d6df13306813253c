package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/server"
)

// configDir is where knarr's configuration is.
const configDir = "/etc/knarr"

func backupCommand(env Env) *cli.Command {
	conf := backupSettings(env)
	return &cli.Command{
		Name:  "backup",
		Usage: "Put datastore, CAs, token, manifests and configuration into one file, while the server runs",
		Description: "The file is written whole or not at all, and is verified before the command ends. Keep a copy off\n" +
			"this host, and keep it secret: it has the cluster's keys. Restore it with `knarr restore`. What is not\n" +
			"given is as the server's configuration file has it, under the same names with backup- before them.",
		Flags: conf.flags(
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write; a new one in the directory of backups when not given"},
			&cli.IntFlag{Name: "keep", Usage: "remove all but the newest `N` backups in the directory and in S3; 0 removes none"},
		),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			s, err := conf.load(c)
			if err != nil {
				return err
			}
			return makeBackup(c.Context, env, c, s)
		},
		Subcommands: []*cli.Command{
			{
				Name: "verify", Usage: "Read a whole backup and check it", ArgsUsage: "FILE",
				Description: "With --s3, FILE is the name of a backup in the bucket.",
				Flags:       conf.flags(),
				Action: func(c *cli.Context) error {
					return withBackup(env, c, conf, func(s config.Server, file string) error {
						info, err := backup.Verify(c.Context, file, server.BackupOptions(s).Passphrase)
						if err != nil {
							return failf("%w", err)
						}
						return printJSON(env, info)
					})
				},
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "List the backups in the directory of backups and, with --s3, in the bucket",
				Flags: conf.flags(), Action: backupAction(env, conf, listBackups),
			},
			{
				Name: "delete", Usage: "Remove backups by name, in the directory of backups and, with --s3, in the bucket", ArgsUsage: "NAME...",
				Flags: conf.flags(), Action: func(c *cli.Context) error { return deleteBackups(env, c, conf) },
			},
			{
				Name: "prune", Usage: "Remove all but the newest backups, as --retention and --s3-retention say",
				Flags: conf.flags(), Action: backupAction(env, conf, pruneBackups),
			},
		},
	}
}

// backupAction is an action without arguments on what the settings say.
func backupAction(env Env, conf settings, f func(context.Context, Env, config.Server) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArguments(c); err != nil {
			return err
		}
		s, err := conf.load(c)
		if err != nil {
			return err
		}
		return f(c.Context, env, s)
	}
}

// backupPlace is where backups are besides the directory. When a Secret says it, that is read by way of the
// administrator's kubeconfig.
func backupPlace(env Env, s config.Server) backup.Place {
	return server.BackupPlace(s, func() (kubernetes.Interface, error) {
		cluster, err := reach(env.path(s.Kubeconfig.Path))
		return cluster.Interface, err
	})
}

func listBackups(ctx context.Context, env Env, s config.Server) error {
	files, err := backup.List(s.BackupDir())
	if err != nil {
		return failf("%w", err)
	}
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "%s\t%d\n", f.Path, f.Bytes)
	}
	remote, err := backupPlace(env, s).Remote(ctx)
	if err != nil {
		return failf("%w", err)
	}
	if remote != nil {
		names, err := remote.List(ctx)
		if err != nil {
			return failf("%w", err)
		}
		for _, name := range names {
			b.WriteString(remote.URL(name) + "\n")
		}
	}
	return printText(env, b.String())
}

func pruneBackups(ctx context.Context, env Env, s config.Server) error {
	series := server.BackupSeries(s)
	removed, err := backup.Prune(s.BackupDir(), series, s.Backup.Retention)
	var b strings.Builder
	for _, f := range removed {
		fmt.Fprintf(&b, "removed %s\n", f.Path)
	}
	if err == nil {
		err = pruneRemote(ctx, backupPlace(env, s), series, &b)
	}
	if perr := printText(env, b.String()); perr != nil {
		return perr
	}
	if err != nil {
		return failf("%w", err)
	}
	return nil
}

func pruneRemote(ctx context.Context, place backup.Place, series backup.Series, out *strings.Builder) error {
	remote, err := place.Remote(ctx)
	if err != nil || remote == nil {
		return err
	}
	names, err := remote.Prune(ctx, series, remote.Keep())
	for _, name := range names {
		fmt.Fprintf(out, "removed %s\n", remote.URL(name))
	}
	return err
}

// deleteBackups removes the backups that are named, of which each must be somewhere.
func deleteBackups(env Env, c *cli.Context, conf settings) error {
	if c.NArg() == 0 {
		return usagef("delete: want the names of backups, as `knarr backup list` shows them")
	}
	s, err := conf.load(c)
	if err != nil {
		return err
	}
	for _, name := range c.Args().Slice() {
		where, err := backup.Delete(c.Context, s.BackupDir(), backupPlace(env, s), path.Base(name))
		if err != nil {
			return failf("%w", err)
		}
		if err := printText(env, "removed "+strings.Join(where, " and ")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// snapshotCommand is k3s's name for the backups of a server.
func snapshotCommand(env Env) *cli.Command {
	c := backupCommand(env)
	save := &cli.Command{Name: "save", Usage: "Make a backup now", Flags: c.Flags, Action: c.Action}
	c.Name, c.Usage, c.Hidden = "etcd-snapshot", "The name that k3s has for `knarr backup`", true
	c.Flags, c.Action = nil, func(c *cli.Context) error { return usagef("etcd-snapshot: want save, list, delete, prune or verify") }
	c.Subcommands = append([]*cli.Command{save}, c.Subcommands...)
	return c
}

func printText(env Env, text string) error {
	if _, err := io.WriteString(env.Stdout, text); err != nil {
		return failf("write result: %w", err)
	}
	return nil
}

func makeBackup(ctx context.Context, env Env, c *cli.Context, s config.Server) error {
	keep := c.Int("keep")
	if keep < 0 {
		return usagef("--keep %d: want a number of backups, or 0", keep)
	}
	file := c.String("output")
	if file == "" {
		if err := os.MkdirAll(s.BackupDir(), 0o700); err != nil {
			return failf("make directory for backups: %w", err)
		}
		file = filepath.Join(s.BackupDir(), server.BackupSeries(s).Name(time.Now()))
	}
	store, err := server.DatastoreConfig(s)
	if err != nil {
		return failf("%w", err)
	}
	source := server.BackupSource(s, store, slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	source.ConfigDir = env.path(source.ConfigDir)
	options := server.BackupOptions(s)
	if _, err := backup.Create(ctx, source, file, options); err != nil {
		return failf("%w", err)
	}
	info, err := backup.Verify(ctx, file, options.Passphrase)
	if err != nil {
		return failf("verify the backup just made: %w", err)
	}
	if keep > 0 {
		if _, err := backup.Prune(s.BackupDir(), server.BackupSeries(s), keep); err != nil {
			return failf("%w", err)
		}
	}
	if err := backupPlace(env, s).Send(ctx, file, server.BackupSeries(s), keep); err != nil {
		return failf("%w; the backup is in %s", err, file)
	}
	return printJSON(env, struct {
		File string `json:"file"`
		backup.Info
	}{file, info})
}

// withBackup calls f with the configuration and the one file that is named; with --s3 it is fetched from there.
func withBackup(env Env, c *cli.Context, conf settings, f func(config.Server, string) error) error {
	if c.NArg() != 1 {
		return usagef("%s: want one backup file", c.Command.Name)
	}
	s, err := conf.load(c)
	if err != nil {
		return err
	}
	file, done, err := backupPlace(env, s).Fetch(c.Context, c.Args().First(), s.DataDir)
	if err != nil {
		return failf("%w", err)
	}
	if err := f(s, file); err != nil {
		return errors.Join(err, done())
	}
	if err := done(); err != nil {
		return failf("remove the fetched backup: %w", err)
	}
	return nil
}

func restoreCommand(env Env) *cli.Command {
	conf := backupSettings(env)
	return &cli.Command{
		Name: "restore", Usage: "Put this server back to what it was when a backup was made", ArgsUsage: "FILE",
		Description: "The server must be stopped. Everything is unpacked and verified before anything is touched, then takes\n" +
			"the place of what is there, which is kept beside it. Afterwards start the server. A FILE that is not\n" +
			"there is looked for in the bucket when --s3 is set.",
		Flags: conf.flags(runDirFlag(),
			&cli.BoolFlag{Name: "overwrite-config", Usage: "replace " + configDir + "; else the backup's is put beside it"},
		),
		Action: func(c *cli.Context) error {
			return withBackup(env, c, conf, func(s config.Server, file string) error {
				if pid, err := control.LockedPID(env.path(c.String("run-dir"))); err == nil && pid > 0 {
					return failf("knarr runs (pid %d): stop it first with `knarr stop`", pid)
				}
				lock, err := datadir.New(s.DataDir).Hold() // a server that is started meanwhile is refused
				if err != nil {
					return failf("%w", err)
				}
				restored, err := backup.Restore(c.Context, file, backup.Target{
					DataDir: s.DataDir, ConfigDir: env.path(configDir), OverwriteConfig: c.Bool("overwrite-config"),
				}, server.BackupOptions(s).Passphrase)
				if err := errors.Join(err, lock.Close()); err != nil {
					return failf("%w", err)
				}
				return printJSON(env, restored)
			})
		},
	}
}
