package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/control"
)

// configDir is where knarr's configuration is.
const configDir = "/etc/knarr"

func passphraseFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "passphrase-file", EnvVars: []string{"KNARR_BACKUP_PASSPHRASE_FILE"},
		Usage: "`FILE` whose first line encrypts the backup, or decrypts it",
	}
}

// backupsDir is where backups go when nothing else is said.
func backupsDir(data string) string { return filepath.Join(data, "backups") }

func backupCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:  "backup",
		Usage: "Put datastore, CAs, token, manifests and configuration into one file, while the server runs",
		Description: "The file is written whole or not at all, and is verified before the command ends. Keep it off this\n" +
			"host, and keep it secret: it has the cluster's keys. Restore it with `knarr restore`.",
		Flags: append(storeFlags(), passphraseFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write; a new one in DATA-DIR/backups when not given"},
			&cli.IntFlag{Name: "keep", Usage: "remove all but the newest `N` backups of DATA-DIR/backups; 0 removes none"},
		),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return makeBackup(c.Context, env, c)
		},
		Subcommands: []*cli.Command{
			{
				Name: "verify", Usage: "Read a whole backup and check it", ArgsUsage: "FILE",
				Flags: []cli.Flag{passphraseFlag()},
				Action: func(c *cli.Context) error {
					file, pass, err := backupFile(env, c)
					if err != nil {
						return err
					}
					info, err := backup.Verify(c.Context, file, pass)
					if err != nil {
						return failf("%w", err)
					}
					return printJSON(env, info)
				},
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "List the backups in DATA-DIR/backups", Flags: []cli.Flag{dataDirFlag()},
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					files, err := backup.List(backupsDir(env.path(c.String("data-dir"))))
					if err != nil {
						return failf("%w", err)
					}
					for _, f := range files {
						if _, err := fmt.Fprintf(env.Stdout, "%s\t%d\n", f.Path, f.Bytes); err != nil {
							return failf("write list: %w", err)
						}
					}
					return nil
				},
			},
		},
	}
}

func makeBackup(ctx context.Context, env Env, c *cli.Context) error {
	store, err := storeConfig(env, c)
	if err != nil {
		return err
	}
	if c.Int("keep") < 0 {
		return usagef("--keep %d: want a number of backups, or 0", c.Int("keep"))
	}
	pass, err := passphrase(env, c)
	if err != nil {
		return err
	}
	data := env.path(c.String("data-dir"))
	file := c.String("output")
	if file == "" {
		if err := os.MkdirAll(backupsDir(data), 0o700); err != nil {
			return failf("make directory for backups: %w", err)
		}
		file = filepath.Join(backupsDir(data), backup.Name(time.Now()))
	}
	source := backup.Source{
		DataDir: data, ConfigDir: env.path(configDir), Datastore: store,
		Log: slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if _, err := backup.Create(ctx, source, file, pass); err != nil {
		return failf("%w", err)
	}
	info, err := backup.Verify(ctx, file, pass)
	if err != nil {
		return failf("verify the backup just made: %w", err)
	}
	if keep := c.Int("keep"); keep > 0 {
		if _, err := backup.Prune(backupsDir(data), keep); err != nil {
			return failf("%w", err)
		}
	}
	return printJSON(env, struct {
		File string `json:"file"`
		backup.Info
	}{file, info})
}

// backupFile is the one argument, and the passphrase.
func backupFile(env Env, c *cli.Context) (string, []byte, error) {
	if c.NArg() != 1 {
		return "", nil, usagef("%s: want one backup file", c.Command.Name)
	}
	pass, err := passphrase(env, c)
	return c.Args().First(), pass, err
}

func passphrase(env Env, c *cli.Context) ([]byte, error) {
	name := c.String("passphrase-file")
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(env.path(name))
	if err != nil {
		return nil, usagef("read passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if line = bytes.TrimRight(line, "\r"); len(line) == 0 {
		return nil, usagef("read passphrase %s: its first line is empty", name)
	}
	return line, nil
}

func restoreCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "Put this server back to what it was when a backup was made", ArgsUsage: "FILE",
		Description: "The server must be stopped. Everything is unpacked and verified before anything is touched, then takes\n" +
			"the place of what is there, which is kept beside it. Afterwards start the server.",
		Flags: []cli.Flag{
			dataDirFlag(), runDirFlag(), passphraseFlag(),
			&cli.BoolFlag{Name: "overwrite-config", Usage: "replace " + configDir + "; else the backup's is put beside it"},
		},
		Action: func(c *cli.Context) error {
			file, pass, err := backupFile(env, c)
			if err != nil {
				return err
			}
			if pid, err := control.LockedPID(env.path(c.String("run-dir"))); err == nil && pid > 0 {
				return failf("knarr runs (pid %d): stop it first with `knarr stop`", pid)
			}
			done, err := backup.Restore(c.Context, file, backup.Target{
				DataDir: env.path(c.String("data-dir")), ConfigDir: env.path(configDir), OverwriteConfig: c.Bool("overwrite-config"),
			}, pass)
			if err != nil {
				return failf("%w", err)
			}
			return printJSON(env, done)
		},
	}
}
