package join

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// State is what an agent keeps, so that it starts while no server can be reached.
type State struct {
	// File holds the [Cluster], normally <data-dir>/agent/cluster.json.
	File string
	// PasswordFile holds the node's password, normally /etc/knarr/node/password: outside of the data-dir, since a
	// machine that lost its data is still the same.
	PasswordFile string
}

// Load returns what was stored last, nil when there is nothing, or nothing that can be read: it is fetched again.
func (s State) Load() (*Cluster, error) {
	data, err := os.ReadFile(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is known of the cluster: %w", err)
	}
	var c Cluster
	if json.Unmarshal(data, &c) != nil {
		return nil, nil
	}
	return &c, nil
}

// Store keeps c.
func (s State) Store(c Cluster) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode what is known of the cluster: %w", err)
	}
	if err := atomicfile.MkdirAll(filepath.Dir(s.File), 0o700); err != nil {
		return err
	}
	if _, err := atomicfile.WriteIfChanged(s.File, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep what is known of the cluster: %w", err)
	}
	return nil
}

// Password is the node's, made at the first call.
func (s State) Password() (string, error) {
	data, err := os.ReadFile(s.PasswordFile)
	if text := strings.TrimSpace(string(data)); err == nil && text != "" {
		return text, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the node's password: %w", err)
	}
	raw := make([]byte, 16)
	rand.Read(raw) // never fails: crypto/rand stops the process instead
	password := hex.EncodeToString(raw)
	if err := atomicfile.MkdirAll(filepath.Dir(s.PasswordFile), 0o700); err != nil {
		return "", err
	}
	if err := atomicfile.Write(s.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the node's password: %w", err)
	}
	return password, nil
}

// Differences compares what a machine was told with what its cluster has: a line for each flag that differs.
func Differences(local, cluster []Setting) []string {
	var lines []string
	for _, have := range local {
		i := slices.IndexFunc(cluster, func(s Setting) bool { return s.Flag == have.Flag })
		if i >= 0 && cluster[i].Value != have.Value {
			lines = append(lines, fmt.Sprintf("--%s is %q here and %q in the cluster", have.Flag, have.Value, cluster[i].Value))
		}
	}
	return lines
}

// MismatchError says that a server's configuration is not that of its cluster, and what to do. Its exit code is 2, that of a
// wrong configuration.
type MismatchError struct {
	Err error
}

func (e *MismatchError) Error() string { return e.Err.Error() }
func (e *MismatchError) Unwrap() error { return e.Err }

// ExitCode is 2.
func (*MismatchError) ExitCode() int { return 2 }

// AgentTokenDiffers is what [Differences] would say of --agent-token, whose values are secrets; "" where nothing was given
// here, or the same. cluster is empty where agents join with the server token.
func AgentTokenDiffers(here, cluster string) string {
	switch {
	case here == "" || here == cluster:
		return ""
	case cluster == "":
		return "--agent-token is given here, and the cluster has none: its agents join with the server token"
	default:
		return "--agent-token is not that of the cluster"
	}
}
