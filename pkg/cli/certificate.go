package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/server"
)

func certificateCommand(env Env) *cli.Command {
	conf := settingsOf(env, func(f config.Flag) string {
		if f.Name == "config" || f.Name == "data-dir" {
			return f.Name
		}
		return ""
	})
	return &cli.Command{
		Name: "certificate", Usage: "Look at this machine's certificates, and make new ones",
		Description: "knarr renews certificates while it runs; nothing of this is needed for that.",
		Subcommands: []*cli.Command{
			{
				Name: "check", Usage: "Show every certificate, when it ends and what is wrong with it",
				Description: "The exit code is 1 when one is of no use.",
				Flags:       conf.flags(tableOrJSON()),
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					format, err := outputFormat(c)
					if err != nil {
						return err
					}
					s, err := conf.load(c)
					if err != nil {
						return err
					}
					return checkCertificates(env, s, format)
				},
			},
			{
				Name: "rotate", Usage: "Issue a server's certificates anew, with new private keys",
				Description: "Whoever uses them reads the new files by itself. The authorities stay. Names and addresses are those\n" +
					"of the configuration file; what was given on the server's command line counts again at its next start.",
				Flags: conf.flags(&cli.StringSliceFlag{
					Name: "service", Aliases: []string{"s"}, Usage: "only those of `SERVICE`, one of " + strings.Join(pki.Services(), ", ") + "; repeat it, or separate with commas",
				}),
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					s, err := conf.load(c)
					if err != nil {
						return err
					}
					return rotateCertificates(env, s, c.StringSlice("service"))
				},
			},
		},
	}
}

// ownCertificates are those of the server or the agent on this machine.
func ownCertificates(env Env, s config.Server) (pki.Config, error) {
	joined := pki.Config{DataDir: s.DataDir, Joined: true}
	_, err := os.Stat(joined.LeafPair(pki.KubeletClient).Cert)
	if _, serverErr := os.Stat(joined.CAPair(pki.ServerCA).Key); err == nil && errors.Is(serverErr, fs.ErrNotExist) {
		return joined, nil
	}
	s.Kubeconfig.Path = env.path(s.Kubeconfig.Path)
	return server.Certificates(s)
}

func checkCertificates(env Env, s config.Server, format string) error {
	c, err := ownCertificates(env, s)
	if err != nil {
		return failf("%w", err)
	}
	c.NodeName = "" // the server may have been started with other names than the configuration file has
	rows, err := pki.Inventory(time.Now(), c)
	if err != nil {
		return failf("%w", err)
	}
	if format == formatJSON {
		err = printJSON(env, rows)
	} else {
		err = pki.WriteTable(env.Stdout, rows)
	}
	if err != nil {
		return err
	}
	bad := slices.DeleteFunc(rows, func(r pki.Row) bool { return r.Status.Usable() })
	if len(bad) > 0 {
		return failf("%d certificates are of no use; a start of knarr makes all but the authorities anew (docs/certificates.md)", len(bad))
	}
	return nil
}

func rotateCertificates(env Env, s config.Server, services []string) error {
	c, err := ownCertificates(env, s)
	if err != nil {
		return failf("%w", err)
	}
	if c.Joined {
		return failf("this machine is an agent, whose certificates its servers sign: it renews them by itself")
	}
	if _, err := os.Stat(c.CAPair(pki.ServerCA).Key); err != nil {
		return failf("there is no server in %s: %w", s.DataDir, err)
	}
	if len(services) == 0 {
		services = pki.Services()
	}
	done, err := pki.Rotate(time.Now(), c, services)
	for _, change := range done.Changes {
		if _, werr := fmt.Fprintf(env.Stdout, "%s\t%s\t%s\n", change.Action, change.Path, change.Reason); werr != nil {
			return failf("write result: %w", werr)
		}
	}
	if err != nil {
		return failf("%w", err)
	}
	return nil
}
