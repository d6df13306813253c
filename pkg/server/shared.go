package server

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/knarr-io/knarr/pkg/bootstrap"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/token"
)

// addStore adds datastore and keys, and between them, where several servers use the datastore, what they share. An
// embedded etcd needs certificates, so the keys come first; with an external datastore they come out of it.
func (p Plan) addStore(g *lifecycle.Group, base lifecycle.Ref, store *datastore.Component, parts *Parts, log *slog.Logger) (keys, db lifecycle.Ref, err error) {
	own := p.keys(log)
	if !p.several() {
		return g.Add(own, lifecycle.After(base)), g.Add(store, lifecycle.After(base)), nil
	}
	c, err := p.shared(store)
	if err != nil {
		return keys, db, err
	}
	if p.inEtcd() {
		keys = g.Add(own, lifecycle.After(base))
		db = g.Add(store, lifecycle.After(base, keys))
		parts.Shared = bootstrap.New(c, log)
		return g.Add(parts.Shared, lifecycle.After(db)), db, nil
	}
	c.Adopt, c.Make = true, own.Prepare
	parts.Shared = bootstrap.New(c, log)
	db = g.Add(store, lifecycle.After(base))
	agreed := g.Add(parts.Shared, lifecycle.After(db))
	return g.Add(prepared{own}, lifecycle.After(agreed)), db, nil
}

// shared is what servers share.
func (p Plan) shared(store *datastore.Component) (bootstrap.Config, error) {
	c := bootstrap.Config{
		DataDir: p.Dir.Root(), Files: sharedFiles(), Tokens: token.Store{ServerDir: p.Dir.Server()},
		Make: func(context.Context) error { return nil }, Client: store.Client,
	}
	var err error
	if c.CAKey, err = filepath.Rel(p.Dir.Root(), p.certificates().CAPair(pki.ServerCA).Key); err != nil {
		return c, fmt.Errorf("find the CA: %w", err)
	}
	if p.Token.IsSet() {
		if c.Given, err = token.Parse(p.Token.Reveal()); err != nil {
			return c, fmt.Errorf("--token: %w", err)
		}
	}
	if p.AgentToken.IsSet() {
		if c.GivenAgent, err = token.Parse(p.AgentToken.Reveal()); err != nil {
			return c, fmt.Errorf("--agent-token: %w", err)
		}
	}
	if p.inEtcd() {
		return c, nil // who joins compares with the server that it joins
	}
	for _, s := range p.Shared() {
		c.Settings = append(c.Settings, join.Setting(s))
	}
	if a := p.AdvertiseAddress(p.HostIPs...); a.IsValid() {
		c.Address = a.String()
	}
	return c, nil
}

// prepared are keys that were made when what servers share was settled, not before everything starts.
type prepared struct{ keys *identity }

func (p prepared) Name() string                                { return p.keys.Name() }
func (p prepared) Run(ctx context.Context, ready func()) error { return p.keys.Run(ctx, ready) }
func (p prepared) Check(ctx context.Context) error             { return p.keys.Check(ctx) }
