// Package config turns what a user said (the command line, the environment,
// /etc/knarr/config.yaml and its drop-ins) into one checked, immutable value.
//
// [LoadServer] and [LoadAgent] are pure: all that they read comes in through
// [Input], so that a test needs no disk and the same input always gives the
// same answer. Precedence is flags > environment > files > defaults; the files
// merge as k3s's do (see [Flag] and files.go). Every problem is found in one
// pass and reported in one [Error], which names the flag, variable or line.
//
// One table (table.go and its neighbours) describes every flag. The parser of
// the command line, --help, the keys of the configuration file and
// docs/configuration.md all come out of it; a new flag is one row there and one
// field in [Server].
//
// It is not: the mapping to the components' own configurations (pkg/server and
// pkg/agent do that; no component imports this package), and not a look at the
// host (pkg/hostcheck): ports, interfaces and users are not checked here.
//
// It starts nothing, so there is nothing to stop.
package config
