package etcd

import (
	"flag"
	"fmt"
	"io"
	"strings"

	"go.etcd.io/etcd/pkg/v3/flags"
	"go.etcd.io/etcd/server/v3/embed"
)

// UsageError is a flag of knarr for members that cannot be followed. Its exit code is 2.
type UsageError struct {
	// Flag is the flag as it was given, without dashes.
	Flag string
	Why  string
}

func (e *UsageError) Error() string { return fmt.Sprintf("--%s: %s", e.Flag, e.Why) }

// ExitCode is 2: bad usage.
func (e *UsageError) ExitCode() int { return 2 }

// owned are the beginnings of the names of etcd's flags that are not the user's to set, and why.
func owned() map[string]string {
	const (
		who    = "knarr sets who a member is and where it is reached; see --node-ip"
		keys   = "knarr makes the keys between members and renews them"
		place  = "the data is in server/db/etcd of the --data-dir, where backups and restores look for it"
		log    = "all components share one log; use knarr's own --debug"
		beyond = "a member serves nothing but the etcd API"
	)
	return map[string]string{
		"name": who, "listen-": who, "advertise-": who, "initial-advertise-": who, "initial-cluster": who, "discovery": who,
		"cert-file": keys, "key-file": keys, "trusted-ca-file": keys, "client-": keys, "peer-": keys, "auto-tls": keys, "self-signed-": keys,
		"data-dir": place, "wal-dir": place,
		"log": log, "enable-log-": log,
		"cors": beyond, "host-whitelist": beyond,
		"listen-metrics-urls": "use --etcd-expose-metrics",
		"force-new-cluster":   "use --cluster-reset",
		"unsafe-no-fsync":     "what is acknowledged has to be on the disk",
	}
}

// whyOwned is why a flag is not the user's; empty when it is. The longest beginning counts.
func whyOwned(name string) string {
	table, longest := owned(), ""
	for begin := range table {
		if strings.HasPrefix(name, begin) && len(begin) > len(longest) {
			longest = begin
		}
	}
	return table[longest]
}

// CheckArgs tells what is wrong with the arguments of [Config.Args].
func CheckArgs(args []string) error { return applyArgs(embed.NewConfig(), args) }

// applyArgs makes the user's arguments, "name=value" or "name", dashes tolerated, part of a configuration, by etcd's own
// flag set. It does what etcd's main program does with the flags that have no field of the configuration behind them
// (go.etcd.io/etcd/server/v3 v3.7.3 etcdmain/config.go:240-242).
func applyArgs(cfg *embed.Config, args []string) error {
	if len(args) == 0 {
		return nil // AddFlags sets variables of a package, for nothing
	}
	set := flag.NewFlagSet("etcd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	ours := *cfg
	cfg.AddFlags(set)
	*cfg = ours // some flags begin by resetting their field
	for _, arg := range args {
		arg = strings.TrimLeft(arg, "-")
		name, value, given := strings.Cut(arg, "=")
		bad := func(why string) error { return &UsageError{"etcd-arg=" + arg, why} }
		f := set.Lookup(name)
		switch why := whyOwned(name); {
		case f == nil:
			return bad("etcd has no such argument")
		case why != "":
			return bad(why)
		case !given && !isSwitch(f):
			return bad("want " + name + "=VALUE")
		case !given:
			value = "true"
		}
		if err := set.Set(name, value); err != nil {
			return bad(err.Error())
		}
		switch name {
		case "cipher-suites":
			cfg.CipherSuites = flags.StringsFromFlag(set, name)
		case "max-concurrent-streams":
			cfg.MaxConcurrentStreams = flags.Uint32FromFlag(set, name)
		}
	}
	return nil
}

// isSwitch tells whether a flag may stand without a value.
func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
