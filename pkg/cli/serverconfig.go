package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
)

// settings are the flags of a command that works with what the server is configured to use: rows of the configuration's
// table, by the names that the command gives them. What is not given comes from the configuration file and the
// environment, as for the server.
type settings struct {
	env  Env
	rows []setting
}

type setting struct {
	row     config.Flag
	name    string
	aliases []string
}

// settingsOf takes the rows for which name gives a name.
func settingsOf(env Env, name func(config.Flag) string) settings {
	s := settings{env: env}
	for _, row := range config.Flags(config.RoleServer) {
		n := name(row)
		if n == "" {
			continue
		}
		var aliases []string
		for _, a := range row.Names() {
			if a != n {
				aliases = append(aliases, a)
			}
		}
		s.rows = append(s.rows, setting{row, n, aliases})
	}
	return s
}

// storeSettings name a datastore.
func storeSettings(env Env) settings {
	return settingsOf(env, func(f config.Flag) string {
		if f.Name == "config" || f.Name == "data-dir" || strings.HasPrefix(f.Name, "datastore-") {
			return f.Name
		}
		return ""
	})
}

// backupSettings name a datastore and say where backups are; without backup- before each name.
func backupSettings(env Env) settings {
	return settingsOf(env, func(f config.Flag) string {
		switch {
		case f.Name == "config" || f.Name == "data-dir" || strings.HasPrefix(f.Name, "datastore-"):
			return f.Name
		case f.Name == "backup-schedule":
			return ""
		default:
			name, ok := strings.CutPrefix(f.Name, "backup-")
			if !ok {
				return ""
			}
			return name
		}
	})
}

// flags are for urfave/cli, with more behind them.
func (s settings) flags(more ...cli.Flag) []cli.Flag {
	var flags []cli.Flag
	for _, r := range s.rows {
		if r.row.Boolean() {
			flags = append(flags, &cli.BoolFlag{Name: r.name, Aliases: r.aliases, Usage: r.row.Usage, DisableDefaultText: true})
			continue
		}
		flags = append(flags, &cli.StringFlag{Name: r.name, Aliases: r.aliases, Usage: r.row.Usage, DefaultText: r.row.ShownDefault()})
	}
	return append(flags, more...)
}

// load is the server's configuration with what the command line said. Paths in it are below the Env's root.
func (s settings) load(c *cli.Context) (config.Server, error) {
	var line configLine
	for _, r := range s.rows {
		if c.IsSet(r.name) {
			line.occurrences = append(line.occurrences, config.Occurrence{Name: r.row.Name, Value: text(c, r)})
		}
	}
	if line.saysS3() { // then it takes the place of a Secret, which cannot be read while the cluster is down
		line.occurrences = append(line.occurrences, config.Occurrence{Name: secretFlag})
	}
	in, err := s.env.configInput(line)
	if err != nil {
		return config.Server{}, err
	}
	conf, err := config.LoadServer(in)
	if err != nil {
		return config.Server{}, usagef("%w", err)
	}
	conf.Backup.Dir = s.env.path(conf.BackupDir())
	conf.DataDir = s.env.path(conf.DataDir)
	return conf, nil
}

// secretFlag names the Secret that says where in S3 backups are.
const secretFlag = "backup-s3-config-secret"

// saysS3 tells whether a command line says itself where in S3 backups are.
func (l configLine) saysS3() bool {
	return slices.ContainsFunc(l.occurrences, func(o config.Occurrence) bool {
		return strings.HasPrefix(o.Name, "backup-s3-") && o.Name != secretFlag
	})
}

func text(c *cli.Context, r setting) string {
	if !r.row.Boolean() {
		return c.String(r.name)
	}
	if c.Bool(r.name) {
		return "true"
	}
	return "false"
}
