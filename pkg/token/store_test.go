package token

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func mustParse(t *testing.T, text string) Token {
	t.Helper()
	token, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func mustEnsure(t *testing.T, s Store, given Given, ca testCA) Stored {
	t.Helper()
	stored, err := s.Ensure(given, ca.pem())
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// checkNames compares the three names of the store with what was returned.
func checkNames(t *testing.T, s Store, stored Stored) {
	t.Helper()
	server := stored.Server.Reveal() + "\n"
	if got := read(t, s.Path()); got != server {
		t.Errorf("token holds %q, want %q", got, server)
	}
	if got := read(t, s.NodePath()); got != server {
		t.Errorf("node-token holds %q, want %q", got, server)
	}
	if got := mustParse(t, read(t, s.AgentPath())); !got.SameSecret(stored.Agent) {
		t.Errorf("agent-token holds %q, want %q", got.Reveal(), stored.Agent.Reveal())
	}
	for _, path := range []string{s.Path(), s.AgentPath()} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 600", path, info.Mode(), err)
		}
	}
	if target, err := os.Readlink(s.NodePath()); err != nil || target != "token" {
		t.Errorf("node-token leads to %q, %v", target, err)
	}
}

func TestStoreFirstStart(t *testing.T) {
	ca := newCA(t, "ca", nil)
	s := Store{ServerDir: filepath.Join(t.TempDir(), "data", "server")}
	first := mustEnsure(t, s, Given{}, ca)
	checkNames(t, s, first)
	if !first.Generated || first.Server.CAHash() != digest(ca.pem()) || first.Server.User() != UserServer || first.Agent.User() != UserNode {
		t.Errorf("made %v and %v, generated %t", first.Server, first.Agent, first.Generated)
	}
	second := mustEnsure(t, s, Given{}, ca)
	if second.Generated || !second.Server.SameSecret(first.Server) {
		t.Error("a second start without a token made another")
	}
	checkNames(t, s, second)
}

func TestStoreGiven(t *testing.T) {
	ca := newCA(t, "ca", nil)
	s := Store{ServerDir: t.TempDir()}
	first := mustEnsure(t, s, Given{Server: mustParse(t, "s3cret")}, ca)
	checkNames(t, s, first)
	if first.Generated || first.Server.Reveal() != "K10"+digest(ca.pem())+"::server:s3cret" {
		t.Errorf("stored %q, generated %t", first.Server.Reveal(), first.Generated)
	}
	for _, text := range []string{"s3cret", "server:s3cret", first.Server.Reveal()} {
		checkNames(t, s, mustEnsure(t, s, Given{Server: mustParse(t, text)}, ca))
	}
	checkNames(t, s, mustEnsure(t, s, Given{}, ca))
}

func TestStoreAgentToken(t *testing.T) {
	ca := newCA(t, "ca", nil)
	s := Store{ServerDir: t.TempDir()}
	own := mustEnsure(t, s, Given{Agent: mustParse(t, "agents-only")}, ca)
	checkNames(t, s, own)
	if own.Agent.Reveal() != "K10"+digest(ca.pem())+"::node:agents-only" || own.Agent.SameSecret(own.Server) {
		t.Errorf("agent token %q", own.Agent.Reveal())
	}
	if info, err := os.Lstat(s.AgentPath()); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		t.Errorf("agent-token: %v, %v, want a file of its own", info.Mode(), err)
	}
	changed := mustEnsure(t, s, Given{Agent: mustParse(t, "another")}, ca)
	checkNames(t, s, changed)
	shared := mustEnsure(t, s, Given{}, ca)
	checkNames(t, s, shared)
	if !shared.Agent.SameSecret(shared.Server) {
		t.Error("without an agent token, agents do not join with the server's")
	}
}

// TestStoreNewCA writes the token down for a CA put in place anew.
func TestStoreNewCA(t *testing.T) {
	s := Store{ServerDir: t.TempDir()}
	old := mustEnsure(t, s, Given{}, newCA(t, "old", nil))
	ca := newCA(t, "new", nil)
	now := mustEnsure(t, s, Given{}, ca)
	checkNames(t, s, now)
	if !now.Server.SameSecret(old.Server) || now.Server.CAHash() != digest(ca.pem()) {
		t.Errorf("got %v after %v", now.Server, old.Server)
	}
}

// TestStoreRefuses changes nothing and says what to do.
func TestStoreRefuses(t *testing.T) {
	ca, other := newCA(t, "ca", nil), newCA(t, "other", nil)
	foreign, err := mustParse(t, "server:s3cret").WithCA(other.pem())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		given Given
		is    error
		want  []string
	}{
		{"another token", Given{Server: mustParse(t, "hunter2")}, ErrMismatch,
			[]string{"--token is not the token of this cluster", "server/token holds: leave --token out"}},
		{"of another cluster", Given{Server: foreign}, ErrForeignCA,
			[]string{"--token", "belongs to another cluster", "take the token from server/token"}},
		{"bootstrap token", Given{Server: mustParse(t, "abc123.hunter2hunter2ab")}, nil,
			[]string{"--token is a bootstrap token (abc123.(redacted))", "give a password of your own"}},
		{"bootstrap token for agents", Given{Agent: mustParse(t, "abc123.hunter2hunter2ab")}, nil, []string{"--agent-token is a bootstrap token"}},
		{"agent's for the server", Given{Server: mustParse(t, "node:hunter2")}, nil, []string{`--token is for the user "node": it needs one for "server"`}},
		{"server's for agents", Given{Agent: mustParse(t, "server:hunter2")}, nil, []string{`--agent-token is for the user "server"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Store{ServerDir: filepath.Join(t.TempDir(), "server")}
			before := mustEnsure(t, s, Given{Server: mustParse(t, "s3cret")}, ca)
			_, err := s.Ensure(tt.given, ca.pem())
			if err == nil {
				t.Fatal("accepted")
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is missing in: %v", part, err)
				}
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error shows a secret: %v", err)
			}
			checkNames(t, s, before)
		})
	}
}

func TestStoreDamaged(t *testing.T) {
	ca := newCA(t, "ca", nil)
	s := Store{ServerDir: t.TempDir()}
	if err := os.WriteFile(s.Path(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, given := range []Given{{}, {Server: mustParse(t, "s3cret")}} {
		_, err := s.Ensure(given, ca.pem())
		if err == nil || !strings.Contains(err.Error(), s.Path()+": token is empty: restore the file from a backup, or remove it") {
			t.Errorf("got %v", err)
		}
	}
	if err := os.Remove(s.Path()); err != nil {
		t.Fatal(err)
	}
	checkNames(t, s, mustEnsure(t, s, Given{Server: mustParse(t, "s3cret")}, ca))
}

// TestStoreAfterAKill begins with each state that a killed start leaves.
func TestStoreAfterAKill(t *testing.T) {
	ca := newCA(t, "ca", nil)
	tests := []struct {
		name string
		kill func(*testing.T, Store) error
	}{
		{"before node-token", func(_ *testing.T, s Store) error {
			return errors.Join(os.Remove(s.NodePath()), os.Remove(s.AgentPath()))
		}},
		{"before agent-token", func(_ *testing.T, s Store) error { return os.Remove(s.AgentPath()) }},
		{"with a file half written", func(_ *testing.T, s Store) error {
			return os.WriteFile(filepath.Join(s.ServerDir, ".knarr-tmp-123"), []byte("K10"), 0o600)
		}},
		{"with a link half made", func(_ *testing.T, s Store) error {
			return errors.Join(os.Remove(s.NodePath()), os.Symlink("token", filepath.Join(s.ServerDir, ".node-token.tmp")))
		}},
		{"with a copy in place of the link", func(t *testing.T, s Store) error {
			return errors.Join(os.Remove(s.NodePath()), os.WriteFile(s.NodePath(), []byte("old"), 0o644))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Store{ServerDir: t.TempDir()}
			before := mustEnsure(t, s, Given{}, ca)
			if err := tt.kill(t, s); err != nil {
				t.Fatal(err)
			}
			after := mustEnsure(t, s, Given{}, ca)
			checkNames(t, s, after)
			if !after.Server.SameSecret(before.Server) {
				t.Error("another token")
			}
			if left, err := filepath.Glob(filepath.Join(s.ServerDir, ".*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}

func TestRotate(t *testing.T) {
	ca := newCA(t, "one", nil)
	s := Store{ServerDir: filepath.Join(t.TempDir(), "server")}
	if _, err := s.Rotate(Token{}, Token{}); err == nil {
		t.Error("there was no token to rotate")
	}
	first := mustEnsure(t, s, Given{}, ca)
	for name, c := range map[string]struct {
		old, fresh string
		want       error
	}{
		"another's old":      {"nonsense", "new", ErrMismatch},
		"bootstrap":          {"", "abcdef.0123456789abcdef", ErrUnusable},
		"for agents":         {"", "node:new", ErrUnusable},
		"of another cluster": {"", "K10" + strings.Repeat("0", 64) + "::server:new", ErrUnusable},
	} {
		var old Token
		if c.old != "" {
			old = mustParse(t, c.old)
		}
		if _, err := s.Rotate(old, mustParse(t, c.fresh)); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if read(t, s.Path()) != first.Server.Reveal()+"\n" {
			t.Fatalf("%s: the token changed", name)
		}
	}
	made, err := s.Rotate(first.Server, mustParse(t, "new"))
	if err != nil || made.Password() != "new" || made.User() != UserServer || made.CAHash() != first.Server.CAHash() {
		t.Fatalf("got %s, %v", made, err)
	}
	if agents, err := s.LoadAgent(); err != nil || !agents.SameSecret(made) {
		t.Errorf("the agents' token is %s, %v", agents, err)
	}
	again := mustEnsure(t, s, Given{}, ca)
	if !again.Server.SameSecret(made) {
		t.Error("the next start goes on with another token")
	}
	if random, err := s.Rotate(Token{}, Token{}); err != nil || random.SameSecret(made) {
		t.Errorf("got %s, %v", random, err)
	}
}
