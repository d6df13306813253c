package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/lifecycle"
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
}

func (p Plan) keys(log *slog.Logger) lifecycle.Component {
	keys := p.certificates()
	return &identity{pki.NewRenewer(keys, log, nil), keys, p.Dir, p.Token, p.AgentToken}
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
	var given token.Given
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
	if _, err := (token.Store{ServerDir: i.dir.Server()}).Ensure(given, ca); err != nil {
		return fmt.Errorf("set up the cluster's tokens: %w", err)
	}
	return nil
}
