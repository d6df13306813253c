package token

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// ErrMismatch says that the token given is not the one this server was set up
// with.
var ErrMismatch = errors.New("is not the token of this cluster")

// ErrUnusable says that a token cannot be a server's.
var ErrUnusable = errors.New("cannot be the token of a server")

const (
	fileMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o700
)

// Store is where a server keeps its tokens, under its data directory. The names
// are k3s's.
type Store struct {
	// ServerDir is <data-dir>/server.
	ServerDir string
}

// Path is the file of the server token, which people copy joining lines from.
func (s Store) Path() string { return filepath.Join(s.ServerDir, "token") }

// NodePath is another name of Path, kept for k3s's users.
func (s Store) NodePath() string { return filepath.Join(s.ServerDir, "node-token") }

// AgentPath is the file of the agent token, or another name of Path where
// agents join with the server token.
func (s Store) AgentPath() string { return filepath.Join(s.ServerDir, "agent-token") }

// Given is what the configuration says, the zero value being "nothing".
type Given struct {
	Server Token // --token
	Agent  Token // --agent-token
	// KeepAgent lets the agent token that is stored stay when none is given: it came from the cluster.
	KeepAgent bool
}

// Stored is what Ensure decided on, in full form.
type Stored struct {
	Server Token
	// Agent equals Server, but for its user, when agents have no token of their own.
	Agent Token
	// Generated is true when no token was given and none was there.
	Generated bool
}

// Load reads the server token. It returns the zero Token when there is none.
func (s Store) Load() (Token, error) {
	return load(s.Path())
}

// LoadAgent reads the token that agents join with, which may be the server
// token. It returns the zero Token when there is none.
func (s Store) LoadAgent() (Token, error) {
	return load(s.AgentPath())
}

// OwnAgent is the agent token where agents have one of their own, else the zero
// Token.
func (s Store) OwnAgent() (Token, error) {
	if _, err := os.Readlink(s.AgentPath()); err == nil {
		return Token{}, nil // another name of the server token
	}
	return s.LoadAgent()
}

// Ensure decides which tokens this server uses and writes them down in full
// form: the one given, if it is the one stored or none is; the one stored, if
// none is given; else a new random one. caBundle is the server CA as on disk.
//
// A token that contradicts the stored one or the CA is refused, and nothing is
// changed: the error says what to do, and wraps ErrMismatch or ErrForeignCA.
func (s Store) Ensure(given Given, caBundle []byte) (Stored, error) {
	stored, err := s.Load()
	if err != nil {
		return Stored{}, err
	}
	if err := given.check(caBundle); err != nil {
		return Stored{}, err
	}
	var out Stored
	switch {
	case stored.IsZero() && given.Server.IsZero():
		out.Server, out.Generated = Generate(), true
	case stored.IsZero():
		out.Server = given.Server
	case given.Server.IsZero() || given.Server.SameSecret(stored):
		out.Server = stored
	default:
		return Stored{}, fmt.Errorf("the token given with --token %w, which %s holds: leave --token out of flags, environment and configuration file to go on with the stored one, or give the token of this cluster",
			ErrMismatch, s.Path())
	}
	if given.Agent.IsZero() && given.KeepAgent {
		if given.Agent, err = s.OwnAgent(); err != nil {
			return Stored{}, err
		}
	}
	out.Agent = given.Agent
	if out.Agent.IsZero() {
		out.Agent = out.Server
	}
	if out.Server, err = out.Server.As(UserServer).WithCA(caBundle); err != nil {
		return Stored{}, err
	}
	if out.Agent, err = out.Agent.As(UserNode).WithCA(caBundle); err != nil {
		return Stored{}, err
	}
	return out, s.write(out, !given.Agent.IsZero())
}

// Rotate replaces the server token by fresh, or by a random one if fresh is the
// zero Token, and returns what it stored, in full form. old, if given, must be
// the one stored. An agent token of its own stays; one that is another name of
// the server token follows it.
//
// The server reads the file for each machine that joins, so the change counts at
// once. Errors wrap ErrMismatch or ErrUnusable where a given token is to blame.
func (s Store) Rotate(old, fresh Token) (Token, error) {
	stored, err := s.Load()
	switch {
	case err != nil:
		return Token{}, err
	case stored.IsZero():
		return Token{}, fmt.Errorf("rotate the token: %s is not there: run this on a server that has been started", s.Path())
	case !old.IsZero() && !old.SameSecret(stored):
		return Token{}, fmt.Errorf("rotate the token: the one given as the old %w, which %s holds", ErrMismatch, s.Path())
	case fresh.IsBootstrap(), fresh.User() == UserNode:
		return Token{}, fmt.Errorf("rotate the token: the new one %w: give a password", ErrUnusable)
	case fresh.CAHash() != "" && fresh.CAHash() != stored.CAHash():
		return Token{}, fmt.Errorf("rotate the token: the new one %w: it is for another cluster", ErrUnusable)
	case fresh.IsZero():
		fresh = Generate()
	}
	fresh = fresh.As(UserServer)
	fresh.caHash = stored.caHash
	if err := atomicfile.Write(s.Path(), line(fresh), fileMode); err != nil {
		return Token{}, fmt.Errorf("rotate the token: %w", err)
	}
	return fresh, nil
}

// check refuses given tokens that cannot be a server's.
func (g Given) check(caBundle []byte) error {
	for _, t := range []struct {
		flag  string
		token Token
		user  string
	}{{"--token", g.Server, UserServer}, {"--agent-token", g.Agent, UserNode}} {
		switch {
		case t.token.IsZero():
			continue
		case t.token.IsBootstrap():
			return fmt.Errorf("the token given with %s is a bootstrap token (%s), which expires and joins agents only: give a password of your own, or leave %s out", t.flag, t.token, t.flag)
		case t.token.User() != "" && t.token.User() != t.user:
			return fmt.Errorf("the token given with %s is for the user %q: it needs one for %q", t.flag, t.token.User(), t.user)
		}
		if _, err := t.token.VerifyCA(caBundle); err != nil {
			return fmt.Errorf("the token given with %s: %w", t.flag, err)
		}
	}
	return nil
}

// write makes the three names. The server token comes first: a crash in
// between leaves the names that are made from it for the next start.
func (s Store) write(tokens Stored, ownAgentToken bool) error {
	if err := atomicfile.MkdirAll(s.ServerDir, dirMode); err != nil {
		return err
	}
	if err := atomicfile.RemoveTemps(s.ServerDir); err != nil {
		return err
	}
	if _, err := atomicfile.WriteIfChanged(s.Path(), line(tokens.Server), fileMode); err != nil {
		return fmt.Errorf("store server token: %w", err)
	}
	if err := link(s.NodePath(), filepath.Base(s.Path())); err != nil {
		return fmt.Errorf("store node token: %w", err)
	}
	if !ownAgentToken {
		if err := link(s.AgentPath(), filepath.Base(s.Path())); err != nil {
			return fmt.Errorf("store agent token: %w", err)
		}
		return nil
	}
	if _, err := atomicfile.WriteIfChanged(s.AgentPath(), line(tokens.Agent), fileMode); err != nil {
		return fmt.Errorf("store agent token: %w", err)
	}
	return nil
}

func line(t Token) []byte { return []byte(t.Reveal() + "\n") }

func load(path string) (Token, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Token{}, nil
	}
	if err != nil {
		return Token{}, fmt.Errorf("read stored token: %w", err)
	}
	t, err := Parse(string(text))
	if err != nil {
		return Token{}, fmt.Errorf("read stored token %s: %w: restore the file from a backup, or remove it and give the cluster's token with --token", path, err)
	}
	return t, nil
}

// link makes path a symbolic link to target, in one step. Relative, so that a
// data directory can be moved.
func link(path, target string) error {
	if have, err := os.Readlink(path); err == nil && have == target {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
