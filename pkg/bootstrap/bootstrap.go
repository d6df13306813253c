// Package bootstrap shares through the datastore what the servers of a cluster have in common: the authorities with their
// keys, the key of service accounts, the tokens. It is encrypted with the server token, so that the datastore alone
// betrays nothing, and is written with compare-and-swap, so that servers that start at once agree on one set.
//
// The server token is part of it: `knarr token rotate` on one server is followed by the others while they run, and by those
// that were down when they start. It is stored encrypted with the key of the CA, which every server of the cluster has.
//
// It does not make keys or certificates, and it is of no use with a datastore that one server has for itself.
//
// [Component] stops when its context ends.
package bootstrap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/retry"
	"github.com/knarr-io/knarr/pkg/token"
)

// Config says what is shared.
type Config struct {
	// DataDir is where Files are, by their paths below it.
	DataDir string
	Files   []string
	// CAKey is the file of the CA's private key, below DataDir.
	CAKey string
	// Tokens are where this server keeps its tokens.
	Tokens token.Store
	// Given is --token: what to open the record with before this server has kept a token.
	Given token.Token
	// GivenAgent is --agent-token, if given.
	GivenAgent token.Token
	// Adopt takes Files over from the datastore; else they are only given.
	Adopt bool
	// Make makes what is missing of Files and tokens here, and what follows from them. Called when they are settled.
	Make func(ctx context.Context) error
	// Settings, when not nil, have to be those of the other servers that run. Address is this server's own.
	Settings []join.Setting
	Address  string
	// Client reaches the datastore; the component closes it.
	Client func() (*clientv3.Client, error)
}

// Component keeps this server and the record alike. Use [New].
type Component struct {
	config Config
	log    *slog.Logger

	mu sync.Mutex // held while token and record are compared and changed
}

// New makes the component.
func New(c Config, log *slog.Logger) *Component { return &Component{config: c, log: log} }

// Name implements lifecycle.Component.
func (*Component) Name() string { return "bootstrap" }

// Run is ready when this server has what the servers of its cluster share, and follows changes then.
func (c *Component) Run(ctx context.Context, ready func()) error {
	client, err := c.config.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	if err := c.settle(ctx, client); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ready()
	for ctx.Err() == nil {
		// A watch that ends, as when the datastore is restarted, begins again with a look.
		err := retry.Until(ctx, "what servers share", retry.Backoff{First: time.Second, Max: time.Minute}, func(ctx context.Context) (bool, error) {
			err := c.follow(ctx, client)
			if err != nil && ctx.Err() == nil {
				c.log.Warn("what servers share cannot be read", "error", err)
			}
			return err == nil, err
		})
		if err != nil {
			return nil // ctx has ended
		}
	}
	return nil
}

// settle agrees with the other servers, those before and those that start now.
func (c *Component) settle(ctx context.Context, client *clientv3.Client) error {
	for {
		s, err := load(ctx, client)
		if err != nil {
			return err
		}
		if s.revision == 0 {
			done, err := c.begin(ctx, client)
			if err != nil || done {
				return err
			}
			continue // another server was first
		}
		if err := c.take(ctx, client, s); err != nil {
			return err
		}
		return c.config.Make(ctx)
	}
}

// begin stores what this server has as the cluster's.
func (c *Component) begin(ctx context.Context, client *clientv3.Client) (bool, error) {
	if err := c.config.Make(ctx); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	server, err := c.config.Tokens.Load()
	if err != nil {
		return false, err
	}
	done, err := c.publish(ctx, client, server, 0)
	if done {
		c.log.Info("stored in the datastore, encrypted with the token, what the servers of this cluster share")
	}
	return done, err
}

// publish stores what this server has in the place of the record of a revision.
func (c *Component) publish(ctx context.Context, client *clientv3.Client, server token.Token, revision int64) (bool, error) {
	files, err := join.ReadFiles(c.config.DataDir, c.config.Files)
	if err != nil {
		return false, err
	}
	agent, err := c.config.Tokens.OwnAgent()
	if err != nil {
		return false, err
	}
	r, err := seal(payload{Files: files, AgentToken: agent.Password()}, server, files[c.config.CAKey], c.config.Settings)
	if err != nil {
		return false, err
	}
	done, err := store(ctx, client, r, revision)
	if err != nil || !done {
		return false, err
	}
	return true, c.mark(server)
}

// take makes this server one of the cluster that the record is of.
func (c *Component) take(ctx context.Context, client *clientv3.Client, s stored) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	server, err := c.agree(ctx, client, s)
	if err == nil && !server.IsZero() {
		err = c.givenIs(server)
	}
	if err != nil || server.IsZero() {
		return err
	}
	p, err := s.open(server)
	if err != nil {
		return err
	}
	if !c.config.Adopt {
		return c.mark(server)
	}
	if p, err = c.compare(ctx, client, s, p, server); err != nil {
		return err
	}
	if err := join.WriteFiles(c.config.DataDir, c.config.Files, p.Files); err != nil {
		return err
	}
	return errors.Join(c.keep(server, p), c.mark(server))
}

// keep writes the tokens of the cluster.
func (c *Component) keep(server token.Token, p payload) error {
	given := token.Given{Server: server}
	if p.AgentToken != "" {
		agent, err := token.New(token.UserNode, p.AgentToken)
		if err != nil {
			return err
		}
		given.Agent = agent
	}
	for name, bundle := range p.Files {
		if name == strings.TrimSuffix(c.config.CAKey, path.Ext(c.config.CAKey))+".crt" {
			_, err := c.config.Tokens.Ensure(given, bundle)
			return err
		}
	}
	return errors.New("what servers share in the datastore has no CA")
}

// ErrToken says that a server has another token than its cluster.
var ErrToken = errors.New("is not the token of the cluster in this datastore")

// agree finds the token that the record is encrypted with. Three are compared: the one here, the one in the record, and
// the one that was in both when they were last alike. So the one that was changed is known, here or elsewhere. It is the
// zero token when the record was replaced by what is here.
func (c *Component) agree(ctx context.Context, client *clientv3.Client, s stored) (token.Token, error) {
	own, err := c.config.Tokens.Load()
	if err != nil {
		return token.Token{}, err
	}
	caKey, err := os.ReadFile(filepath.Join(c.config.DataDir, c.config.CAKey))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return token.Token{}, fmt.Errorf("read the CA's key: %w", err)
	}
	theirs, err := s.current(caKey)
	if err != nil { // this server was none of the cluster's yet
		return c.stranger(own, s)
	}
	switch {
	case own.IsZero(), own.SameSecret(theirs):
		return theirs, nil
	case c.marked(theirs): // changed here
		if done, err := c.publish(ctx, client, own, s.revision); err != nil || !done {
			return token.Token{}, errors.Join(err, errChanged(done))
		}
		c.log.Info("the server token was rotated here: other servers follow")
		return token.Token{}, nil
	default:
		if _, err := c.config.Tokens.Rotate(own, theirs); err != nil {
			return token.Token{}, err
		}
		c.log.Info("the server token was rotated on another server; this one follows", "file", c.config.Tokens.Path())
		return theirs, nil
	}
}

// errChanged is what happens when two servers change the record at once; the loser looks again.
func errChanged(done bool) error {
	if done {
		return nil
	}
	return errors.New("what servers share in the datastore was changed by another server at the same time")
}

// givenIs refuses an old token in the configuration.
func (c *Component) givenIs(theirs token.Token) error {
	if c.config.Given.IsZero() || c.config.Given.SameSecret(theirs) {
		return nil
	}
	return &join.MismatchError{Err: fmt.Errorf("the token given with --token %w: it was rotated; give the new one, or leave it out: this server knows it", ErrToken)}
}

// stranger opens the record with the token that this server was given.
func (c *Component) stranger(own token.Token, s stored) (token.Token, error) {
	with := c.config.Given
	if with.IsZero() {
		with = own
	}
	if with.IsZero() {
		return with, &join.MismatchError{Err: errors.New("there is a cluster in this datastore already: give its server token with --token or --token-file to join it, as server/token in the data-dir of one of its servers holds it, or give another datastore")}
	}
	if _, err := s.open(with); errors.Is(err, token.ErrDecrypt) {
		return with, &join.MismatchError{Err: fmt.Errorf("the token given with --token %w: give the one that server/token in the data-dir of one of its servers holds, or give another datastore", ErrToken)}
	} else if err != nil {
		return with, err
	}
	return with.As(token.UserServer), nil
}

// leases is where kube-apiservers say that they run; each renews its own before it ends after 15 seconds
// (kubernetes v1.37.1 pkg/controlplane/reconcilers/lease.go).
const leases = "/registry/masterleases/"

// compare refuses settings, and an agent token, that differ from those of other servers, if any runs; else these count from
// now on, and it returns the payload that has them. p is the record's, sealed with the token server.
func (c *Component) compare(ctx context.Context, client *clientv3.Client, s stored, p payload, server token.Token) (payload, error) {
	lines := join.Differences(c.config.Settings, s.Settings)
	if line := join.AgentTokenDiffers(c.config.GivenAgent.Password(), p.AgentToken); line != "" {
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return p, nil
	}
	running, err := client.Get(ctx, leases, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return p, fmt.Errorf("look for other servers: %w", err)
	}
	var others []string
	for _, kv := range running.Kvs {
		if a := strings.TrimPrefix(string(kv.Key), leases); a != c.config.Address {
			others = append(others, a)
		}
	}
	if len(others) > 0 {
		return p, &join.MismatchError{Err: fmt.Errorf("this server's configuration is not that of the cluster, whose servers run at %s: %s; give all servers the same, or stop them all to change it", strings.Join(others, ", "), strings.Join(lines, "; "))}
	}
	if given := c.config.GivenAgent.Password(); given != "" {
		p.AgentToken = given
	}
	r, err := seal(p, server, p.Files[c.config.CAKey], c.config.Settings)
	if err != nil {
		return p, err
	}
	done, err := store(ctx, client, r, s.revision)
	return p, errors.Join(err, errChanged(done))
}

// follow waits for changes of the record and takes them over.
func (c *Component) follow(ctx context.Context, client *clientv3.Client) error {
	s, err := load(ctx, client)
	if err != nil {
		return err
	}
	if s.revision != 0 {
		if err := c.catchUp(ctx, client, s); err != nil {
			return err
		}
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for reply := range client.Watch(watching, key, clientv3.WithRev(s.asOf+1)) {
		if err := reply.Err(); err != nil {
			return fmt.Errorf("watch what servers share: %w", err)
		}
		if len(reply.Events) > 0 {
			return nil // and look again
		}
	}
	return nil
}

// catchUp takes a token over that was rotated elsewhere.
func (c *Component) catchUp(ctx context.Context, client *clientv3.Client, s stored) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	server, err := c.agree(ctx, client, s)
	if err != nil || server.IsZero() {
		return err
	}
	if c.givenIs(server) != nil {
		c.log.Warn("this server was started with the old token as --token: it needs the new one, or none, at its next start")
	}
	return c.mark(server)
}

// Sync has a token that was rotated on this server told to the others now.
func (c *Component) Sync(ctx context.Context) error {
	client, err := c.config.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := load(ctx, client)
	if err != nil || s.revision == 0 {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.agree(ctx, client, s)
	return err
}

// markFile holds the hash of the token that was here and in the datastore when they were last alike.
func (c *Component) markFile() string {
	return filepath.Join(c.config.Tokens.ServerDir, "token.shared")
}

func digest(t token.Token) string {
	sum := sha256.Sum256([]byte(t.Password()))
	return hex.EncodeToString(sum[:])
}

func (c *Component) mark(t token.Token) error {
	if _, err := atomicfile.WriteIfChanged(c.markFile(), []byte(digest(t)+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep which token is shared: %w", err)
	}
	return nil
}

func (c *Component) marked(t token.Token) bool {
	data, err := os.ReadFile(c.markFile())
	return err == nil && strings.TrimSpace(string(data)) == digest(t)
}
