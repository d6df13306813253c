package config

import (
	"fmt"
	"os"
)

// HostInput is an [Input] that reads this host: its environment, file system,
// working directory and name. The caller adds the command line.
func HostInput() (Input, error) {
	dir, err := os.Getwd()
	if err != nil {
		return Input{}, fmt.Errorf("find out the working directory: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return Input{}, fmt.Errorf("find out the host's name: %w", err)
	}
	return Input{LookupEnv: os.LookupEnv, FS: os.DirFS("/"), WorkDir: dir, Hostname: name}, nil
}
