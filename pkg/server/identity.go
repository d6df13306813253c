package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/token"
)

// identity is the certificates of the server, and its tokens, which contain the hash of its CA.
type identity struct {
	*pki.Renewer
	keys  pki.Config
	dir   datadir.Dir
	token config.Secret
	agent config.Secret
	// joined is true where the cluster says what the agent token is.
	joined bool
	// shared is true where a token that was rotated on another server counts, so that what is stored here may be old.
	shared bool
}

func (p Plan) keys(log *slog.Logger) *identity {
	keys := p.certificates()
	return &identity{pki.NewRenewer(keys, log, nil), keys, p.Dir, p.Token, p.AgentToken, p.joins() || p.several() && !p.hasEtcd(), p.several()}
}

// Prepare makes what is missing and writes nothing when all is there.
func (i *identity) Prepare(ctx context.Context) error {
	if err := i.Renewer.Prepare(ctx); err != nil {
		return err
	}
	ca, err := os.ReadFile(i.keys.CAPair(pki.ServerCA).Cert)
	if err != nil {
		return fmt.Errorf("read server CA: %w", err)
	}
	given := token.Given{KeepAgent: i.joined}
	for _, t := range []struct {
		flag string
		text config.Secret
		into *token.Token
	}{{"--token", i.token, &given.Server}, {"--agent-token", i.agent, &given.Agent}} {
		if !t.text.IsSet() {
			continue
		}
		if *t.into, err = token.Parse(t.text.Reveal()); err != nil {
			return fmt.Errorf("%s: %w", t.flag, err)
		}
	}
	store := token.Store{ServerDir: i.dir.Server()}
	if stored, err := store.Load(); i.shared && err == nil && !stored.IsZero() {
		given.Server = token.Token{} // pkg/bootstrap compares it with the cluster's
	}
	_, err = store.Ensure(given, ca)
	switch {
	case errors.Is(err, token.ErrMismatch):
		return &join.MismatchError{Err: err}
	case err != nil:
		return fmt.Errorf("set up the cluster's tokens: %w", err)
	}
	return nil
}
