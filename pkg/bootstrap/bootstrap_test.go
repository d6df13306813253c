package bootstrap

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/token"
	"github.com/knarr-io/knarr/tests/bed"
)

// open runs a datastore, in which servers that do not share a disk could be.
func open(t *testing.T) func() (*clientv3.Client, error) {
	t.Helper()
	db := datastore.New(datastore.Config{Dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	bed.Run(t, db)
	return db.Client
}

// server is one server with a data-dir.
type server struct {
	dir  string
	keys pki.Config
	Config
}

// newServer describes a server that was given a token, or none.
func newServer(t *testing.T, client func() (*clientv3.Client, error), given string) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{dir: dir, keys: pki.Config{DataDir: dir, NodeName: "one", ClusterDomain: "cluster.local", ServerURL: "https://127.0.0.1:6443"}}
	ca, err := filepath.Rel(dir, s.keys.CAPair(pki.ServerCA).Key)
	if err != nil {
		t.Fatal(err)
	}
	s.Config = Config{
		DataDir: dir, Files: pki.SharedFiles(), CAKey: ca, Tokens: token.Store{ServerDir: filepath.Join(dir, "server")},
		Adopt: true, Client: client, Make: s.make, Address: filepath.Base(dir),
		Settings: []join.Setting{{Flag: "cluster-cidr", Value: "10.42.0.0/16"}},
	}
	s.give(t, given)
	return s
}

func (s *server) give(t *testing.T, text string) {
	t.Helper()
	s.Given = token.Token{}
	if text == "" {
		return
	}
	var err error
	if s.Given, err = token.Parse(text); err != nil {
		t.Fatal(err)
	}
}

func (s *server) make(context.Context) error {
	if _, err := pki.Ensure(time.Now(), s.keys); err != nil {
		return err
	}
	ca, err := os.ReadFile(s.keys.CAPair(pki.ServerCA).Cert)
	if err != nil {
		return err
	}
	given := token.Given{Server: s.Given, KeepAgent: true}
	if stored, err := s.Tokens.Load(); err == nil && !stored.IsZero() {
		given.Server = token.Token{}
	}
	given.Agent = s.GivenAgent
	_, err = s.Tokens.Ensure(given, ca)
	return err
}

// start runs the component until stop is called; err is why it did not become ready.
func (s *server) start(t *testing.T) (c *Component, stop func(), err error) {
	t.Helper()
	c = New(s.Config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.Run(ctx, func() { close(up) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-up:
		t.Cleanup(stop)
		return c, stop, nil
	case err := <-done:
		cancel()
		return c, func() {}, err
	}
}

func (s *server) mustStart(t *testing.T) (*Component, func()) {
	t.Helper()
	c, stop, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	return c, stop
}

func (s *server) token(t *testing.T) token.Token {
	t.Helper()
	have, err := s.Tokens.Load()
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// same fails unless both servers have the same secrets.
func same(t *testing.T, a, b *server) {
	t.Helper()
	for _, name := range pki.SharedFiles() {
		one, err1 := os.ReadFile(filepath.Join(a.dir, name))
		two, err2 := os.ReadFile(filepath.Join(b.dir, name))
		if err := errors.Join(err1, err2); err != nil || string(one) != string(two) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
	if !a.token(t).SameSecret(b.token(t)) {
		t.Error("the tokens differ")
	}
}

// follows waits until a server has a token.
func (s *server) follows(t *testing.T, want token.Token) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		if s.token(t).SameSecret(want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not follow to the new token")
		}
	}
}

// TestServersAgree has two servers start at the same moment in an empty datastore.
func TestServersAgree(t *testing.T) {
	client := open(t)
	a, b := newServer(t, client, "together"), newServer(t, client, "together")
	var wg sync.WaitGroup
	for _, s := range []*server{a, b} {
		wg.Go(func() {
			if _, _, err := s.start(t); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	same(t, a, b)
}

// TestNothingInTheClear looks at what the datastore holds.
func TestNothingInTheClear(t *testing.T) {
	client := open(t)
	s := newServer(t, client, "not-to-be-seen")
	s.mustStart(t)
	c, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Get(t.Context(), key)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatal(r, err)
	}
	for _, secret := range []string{"not-to-be-seen", "PRIVATE"} {
		if strings.Contains(string(r.Kvs[0].Value), secret) {
			t.Errorf("the datastore holds %q", secret)
		}
	}
}

func TestStrangers(t *testing.T) {
	client := open(t)
	newServer(t, client, "right").mustStart(t)
	for given, want := range map[string]string{"": "give its server token", "wrong": "is not the token of the cluster in this datastore"} {
		s := newServer(t, client, given)
		if _, _, err := s.start(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("token %q: %v, want %q", given, err, want)
		}
		if _, err := os.Stat(s.keys.CAPair(pki.ServerCA).Key); err == nil {
			t.Errorf("token %q: the server has made keys of its own", given)
		}
	}
}

// TestRotation rotates the token on one server while another runs and a third is down.
func TestRotation(t *testing.T) {
	client := open(t)
	a, b, c := newServer(t, client, "old"), newServer(t, client, "old"), newServer(t, client, "old")
	one, _ := a.mustStart(t)
	b.mustStart(t)
	_, down := c.mustStart(t)
	down()
	fresh, err := a.Tokens.Rotate(token.Token{}, token.Token{})
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.follows(t, fresh)

	if _, _, err := c.start(t); !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "it was rotated") {
		t.Errorf("a server that is started with the old token: %v", err)
	}
	c.give(t, "")
	_, down = c.mustStart(t)
	same(t, a, c)

	// Rotated on a server that is down, it counts when that starts.
	down()
	fresh, err = c.Tokens.Rotate(token.Token{}, token.Token{})
	if err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	a.follows(t, fresh)
	b.follows(t, fresh)
	if d := newServer(t, client, fresh.Password()); func() bool { _, _, err := d.start(t); return err != nil }() {
		t.Error("a new server cannot join with the new token")
	}
}

// TestSettings starts a server whose configuration differs, while another runs and when none does.
func TestSettings(t *testing.T) {
	client := open(t)
	a, b := newServer(t, client, "t"), newServer(t, client, "t")
	a.mustStart(t)
	b.Settings = []join.Setting{{Flag: "cluster-cidr", Value: "10.99.0.0/16"}}
	runs(t, client, a)
	refused(t, b, `--cluster-cidr is "10.99.0.0/16" here and "10.42.0.0/16" in the cluster`)
	b.Address = a.Address // it is the only one that runs
	b.mustStart(t)
	d := newServer(t, client, "t")
	d.Settings = b.Settings
	d.mustStart(t)
}

// agentToken is the one that agents have of their own; empty where they join with the server's.
func (s *server) agentToken(t *testing.T) string {
	t.Helper()
	own, err := s.Tokens.OwnAgent()
	if err != nil {
		t.Fatal(err)
	}
	return own.Password()
}

// TestAgentToken starts servers that were given another agent token than the cluster has, while a server runs and when none
// does: it is the cluster's then, and of those that come after.
func TestAgentToken(t *testing.T) {
	client := open(t)
	agents := func(password string) token.Token {
		given, err := token.Parse(password)
		if err != nil {
			t.Fatal(err)
		}
		return given
	}
	a, b := newServer(t, client, "t"), newServer(t, client, "t")
	_, down := a.mustStart(t)
	runs(t, client, a)
	b.GivenAgent = agents("first")
	refused(t, b, "--agent-token is given here, and the cluster has none")

	down()
	a.GivenAgent = agents("first")
	a.mustStart(t)
	b.GivenAgent = agents("second")
	refused(t, b, "--agent-token is not that of the cluster")
	if got := b.agentToken(t); got != "" {
		t.Errorf("the server that was refused has kept the agent token %q", got)
	}
	b.GivenAgent = agents("first")
	b.mustStart(t)
	c := newServer(t, client, "t") // was told of none
	c.mustStart(t)
	for _, s := range []*server{a, b, c} {
		if got := s.agentToken(t); got != "first" {
			t.Errorf("the agent token is %q", got)
		}
	}
}

// refused requires that a server does not start, for a reason, as one does whose configuration is wrong.
func refused(t *testing.T, s *server, want string) {
	t.Helper()
	_, _, err := s.start(t)
	var usage interface{ ExitCode() int }
	if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &usage) || usage.ExitCode() != 2 {
		t.Errorf("%v, want %q and the exit code 2", err, want)
	}
	if err != nil && strings.Contains(err.Error(), "second") {
		t.Errorf("the error tells the token: %v", err)
	}
}

// runs has a server look like one that runs.
func runs(t *testing.T, client func() (*clientv3.Client, error), s *server) {
	t.Helper()
	c, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lease := leases + s.Address
	if _, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(lease), "=", 0)).Then(clientv3.OpPut(lease, "x")).Commit(); err != nil {
		t.Fatal(err)
	}
}
