package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/token"
)

const (
	// joinLimit is how long a server tries to join before it gives up and says why; who started it starts it again.
	joinLimit = 8 * time.Second
	// refreshLimit is how long a member waits for news of its cluster before it starts with what it knows.
	refreshLimit = 3 * time.Second
)

// joins tells whether this server was told to join a cluster, rather than to be its first.
func (p *Plan) joins() bool { return p.Join.Server != "" }

// join makes the machine one of the cluster's servers: it fetches what servers have in common, and learns where the
// datastore is. One that is a member already only compares settings, when another server can be asked.
func (p *Plan) join(ctx context.Context, log *slog.Logger) error {
	state := p.state()
	known, err := state.Load()
	if err != nil {
		return err
	}
	at, err := url.Parse(p.Join.Server)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	client := &join.Client{URL: at, Node: p.NodeName}
	if known != nil && p.member() {
		err = p.refresh(ctx, client, known, log)
	} else {
		known, err = p.enter(ctx, client, state, log)
	}
	if err != nil {
		return err
	}
	if err := p.settle(*known); err != nil {
		return err
	}
	return state.Store(*known)
}

// state is what a server that joined keeps.
func (p *Plan) state() join.State {
	return join.State{
		File:         filepath.Join(p.Dir.Server(), "cluster.json"),
		PasswordFile: filepath.Join(filepath.Dir(config.DefaultConfigFile), "node", "password"),
	}
}

// member tells whether this server has what one needs: the authorities and, of an embedded etcd, its part.
func (p *Plan) member() bool {
	_, err := os.Stat(p.certificates().CAPair(pki.ServerCA).Key)
	return err == nil && (p.inEtcd() || !p.Datastore.Embedded())
}

// sharedFiles are the files that servers have in common.
func sharedFiles() []string { return pki.SharedFiles() }

// enter joins with the token.
func (p *Plan) enter(ctx context.Context, client *join.Client, state join.State, log *slog.Logger) (*join.Cluster, error) {
	if err := p.vacant(); err != nil {
		return nil, err
	}
	var err error
	if client.Password, err = state.Password(); err != nil {
		return nil, err
	}
	if client.Token, err = p.joiningToken(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	log.Info("joining as a server", "server", client.URL.Host, "node", p.NodeName)
	var known join.Cluster
	var bundle join.Bundle
	err = join.Patiently(ctx, "server "+client.URL.Host, func(ctx context.Context) error {
		pinned, err := client.Discover(ctx)
		if err != nil {
			return err
		}
		if !pinned {
			log.Warn("the token has no CA hash: whoever answered is trusted; use the full token, K10...::server:..., of server/token", "server", client.URL.Host)
		}
		if known, err = client.Cluster(ctx); err == nil {
			bundle, err = client.Bundle(ctx)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	line, err := p.agentToken(bundle)
	if err == nil {
		err = p.differences(known, line)
	}
	if err != nil {
		return nil, err // before anything is kept
	}
	known.Etcd = bundle.Etcd
	return &known, p.take(bundle)
}

// joiningToken is the one given, or that of the cluster that this server was in before it lost its part of the datastore.
func (p *Plan) joiningToken() (token.Token, error) {
	if p.Token.IsSet() {
		t, err := token.Parse(p.Token.Reveal())
		if err != nil {
			return t, fmt.Errorf("--token: %w", err)
		}
		return t, nil
	}
	t, err := (token.Store{ServerDir: p.Dir.Server()}).Load()
	if err == nil && t.IsZero() {
		err = errors.New("this machine has joined no cluster yet and needs the server token: give the line that `knarr token join-command --role server` prints on a server, or --token or --token-file")
	}
	return t, err
}

// vacant refuses to join with a database of this server's own: its keys and its data belong together.
func (p *Plan) vacant() error {
	own := p.Store
	own.Endpoint = ""
	if there, err := datastore.Exists(own); err != nil || !there || !p.Datastore.Embedded() {
		return err
	}
	return fmt.Errorf("this server has a cluster of its own, with a database in %s: move that directory away if the cluster of %s is to take its place, or leave --server out", p.Dir.DB(), p.Join.Server)
}

// take keeps what servers have in common and goes into the cluster's datastore.
func (p *Plan) take(b join.Bundle) error {
	switch {
	case !p.Datastore.Embedded():
	case len(b.Etcd) == 0 && strings.HasPrefix(b.Datastore, "sqlite"):
		return fmt.Errorf("the server at %s keeps the cluster's state in SQLite, which one server can use: start that with --cluster-init, which moves it to an embedded etcd, and then this one again", p.Join.Server)
	case len(b.Etcd) == 0:
		return fmt.Errorf("the server at %s uses a %s: give this one the same --datastore-endpoint", p.Join.Server, b.Datastore)
	case p.elsewhere():
		if err := p.useEtcd(b.Etcd); err != nil {
			return err
		}
	default:
		p.Store.Endpoint = datastore.EmbeddedEtcd
		p.Store.Etcd.Join = b.Etcd
	}
	if err := join.WriteFiles(p.Dir.Root(), sharedFiles(), b.Files); err != nil {
		return err
	}
	return nil
}

// agentToken takes over which token the cluster's agents have of their own, or says how the one given differs.
func (p *Plan) agentToken(b join.Bundle) (difference string, err error) {
	given := ""
	if p.AgentToken.IsSet() {
		t, err := token.Parse(p.AgentToken.Reveal())
		if err != nil {
			return "", fmt.Errorf("--agent-token: %w", err)
		}
		given = t.Password()
	} else if b.AgentToken != "" {
		p.AgentToken = config.NewSecret(b.AgentToken)
	}
	return join.AgentTokenDiffers(given, b.AgentToken), nil
}

// refresh compares the settings with those of another server, if one answers.
func (p *Plan) refresh(ctx context.Context, client *join.Client, known *join.Cluster, log *slog.Logger) error {
	ca, err := os.ReadFile(p.certificates().CAPair(pki.ServerCA).Cert)
	if err != nil {
		return fmt.Errorf("read server CA: %w", err)
	}
	stored, err := (token.Store{ServerDir: p.Dir.Server()}).Load()
	if err != nil {
		return err
	}
	client.CA, client.Token = ca, stored
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	fresh, err := client.Cluster(ctx)
	var bundle join.Bundle
	if err == nil {
		fresh.Etcd = known.Etcd
		*known = fresh
		bundle, err = p.fresh(ctx, client)
	}
	if err != nil {
		log.Info("starting with what is known of the cluster", "server", client.URL.Host, "error", err)
	} else if line, err := p.agentToken(bundle); err != nil || line != "" {
		return errors.Join(err, p.differences(*known, line))
	}
	if p.elsewhere() && len(bundle.Etcd) > 0 {
		known.Etcd = bundle.Etcd
	}
	if p.elsewhere() {
		return p.useEtcd(known.Etcd)
	}
	return nil
}

// fresh is what another server gives to those that join, of which a member needs which servers have the etcd now, and what
// its agents' token is.
func (p *Plan) fresh(ctx context.Context, client *join.Client) (join.Bundle, error) {
	password, err := p.state().Password()
	if err != nil {
		return join.Bundle{}, err
	}
	client.Password = password
	return client.Bundle(ctx)
}

// settle compares the settings with what this server was told, and takes the others over.
func (p *Plan) settle(known join.Cluster) (err error) {
	if err := p.differences(known); err != nil {
		return err
	}
	settings := make([]config.Setting, len(known.Settings))
	for i, s := range known.Settings {
		settings[i] = config.Setting(s)
	}
	p.Server, err = p.Adopt(settings)
	return err
}

// differences compares what this server was told with what its cluster has; more are differences found already, or "".
func (p *Plan) differences(known join.Cluster, more ...string) error {
	var told []join.Setting
	for _, s := range p.Told.All() {
		told = append(told, join.Setting(s))
	}
	lines := append(join.Differences(told, known.Settings), more...)
	if lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" }); len(lines) == 0 {
		return nil
	}
	return &join.MismatchError{Err: fmt.Errorf("this server's configuration is not that of the cluster: %s; leave these out, or give all servers the same, beginning with %s", strings.Join(lines, "; "), p.Join.Server)}
}

// bundle is what this server gives to others.
func (p *Plan) bundle(ctx context.Context, store *datastore.Component) (join.Bundle, error) {
	files, err := join.ReadFiles(p.Dir.Root(), sharedFiles())
	if err != nil {
		return join.Bundle{}, err
	}
	own, err := (token.Store{ServerDir: p.Dir.Server()}).OwnAgent()
	if err != nil {
		return join.Bundle{}, err
	}
	status, err := store.Status(ctx)
	if err != nil {
		return join.Bundle{}, fmt.Errorf("look for the datastore's members: %w", err)
	}
	b := join.Bundle{Files: files, AgentToken: own.Password(), Datastore: status.Engine}
	for _, m := range status.Members {
		b.Etcd = append(b.Etcd, m.ClientURLs...)
	}
	return b, nil
}
