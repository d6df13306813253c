package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
		Flags: append(append(storeFlags(), s3Flags()...), passphraseFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write; a new one in DATA-DIR/backups when not given"},
			&cli.IntFlag{Name: "keep", Usage: "remove all but the newest `N` backups of DATA-DIR/backups and in S3; 0 removes none"},
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
	if s3, ok := s3Config(env, c); ok {
		if err := backup.Send(ctx, s3, file, c.Int("keep")); err != nil {
			return failf("%w; the backup is in %s", err, file)
		}
	}
	return printJSON(env, struct {
		File string `json:"file"`
		backup.Info
	}{file, info})
}

// s3Flags have the names of k3s's --etcd-s3-* without etcd: what is backed up need not be etcd.
func s3Flags() []cli.Flag {
	text := func(name, usage string) cli.Flag {
		return &cli.StringFlag{Name: "s3-" + name, EnvVars: []string{"KNARR_S3_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}, Usage: usage}
	}
	return []cli.Flag{
		text("bucket", "send the backup to, or fetch it from, this `BUCKET` of an S3 service"),
		text("endpoint", "`HOST[:PORT]` of the S3 service"), text("folder", "`PREFIX` in the bucket"), text("region", "`REGION` of the bucket"),
		text("access-key", "access `KEY`"), text("secret-key", "secret `KEY`; better given in the environment"),
		text("ca-file", "`FILE` of CA certificates of the service"),
		&cli.BoolFlag{Name: "s3-insecure", Usage: "speak HTTP"},
	}
}

// s3Config is what s3Flags say; false without a bucket.
func s3Config(env Env, c *cli.Context) (backup.S3, bool) {
	s := backup.S3{
		Bucket: c.String("s3-bucket"), Endpoint: c.String("s3-endpoint"), Folder: c.String("s3-folder"), Region: c.String("s3-region"),
		AccessKey: c.String("s3-access-key"), SecretKey: c.String("s3-secret-key"), Insecure: c.Bool("s3-insecure"),
	}
	if file := c.String("s3-ca-file"); file != "" {
		s.CAFile = env.path(file)
	}
	return s, s.Bucket != ""
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
		Flags: append(s3Flags(), dataDirFlag(), runDirFlag(), passphraseFlag(),
			&cli.BoolFlag{Name: "overwrite-config", Usage: "replace " + configDir + "; else the backup's is put beside it"},
		),
		Action: func(c *cli.Context) error {
			file, pass, err := backupFile(env, c)
			if err != nil {
				return err
			}
			file, done, err := fetched(c.Context, env, c, file)
			if err != nil {
				return err
			}
			defer done()
			if pid, err := control.LockedPID(env.path(c.String("run-dir"))); err == nil && pid > 0 {
				return failf("knarr runs (pid %d): stop it first with `knarr stop`", pid)
			}
			restored, err := backup.Restore(c.Context, file, backup.Target{
				DataDir: env.path(c.String("data-dir")), ConfigDir: env.path(configDir), OverwriteConfig: c.Bool("overwrite-config"),
			}, pass)
			if err != nil {
				return failf("%w", err)
			}
			return printJSON(env, restored)
		},
	}
}

// fetched gets the backup from S3 when a bucket is named; done removes what was fetched.
func fetched(ctx context.Context, env Env, c *cli.Context, name string) (file string, done func(), err error) {
	s3, ok := s3Config(env, c)
	if !ok {
		return name, func() {}, nil
	}
	remote, err := backup.NewRemote(s3)
	if err != nil {
		return "", nil, usagef("%w", err)
	}
	data := env.path(c.String("data-dir"))
	if err := os.MkdirAll(data, 0o755); err != nil {
		return "", nil, failf("make data directory: %w", err)
	}
	dir, err := os.MkdirTemp(data, "fetching-")
	if err != nil {
		return "", nil, failf("make directory to fetch the backup to: %w", err)
	}
	done = func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(env.Stderr, "knarr: remove the fetched backup:", err)
		}
	}
	file = filepath.Join(dir, "backup")
	if err := remote.Download(ctx, name, file); err != nil {
		done()
		return "", nil, failf("%w", err)
	}
	return file, done, nil
}
