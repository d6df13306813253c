package join

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// Bundle is what the servers of a cluster have in common beyond the [Cluster], and nobody else has.
type Bundle struct {
	// Files are secrets by their path below the data-dir: authorities with their keys, the key of service accounts.
	Files map[string][]byte `json:"files"`
	// AgentToken is the password that joins agents only; empty when that is the server's.
	AgentToken string `json:"agentToken,omitempty"`
	// Datastore is the kind of the cluster's datastore, as `knarr status` names it.
	Datastore string `json:"datastore"`
	// Etcd are client URLs of the members of the embedded etcd, if that is the datastore.
	Etcd []string `json:"etcd,omitempty"`
}

// ReadFiles reads those of names that exist below dir.
func ReadFiles(dir string, names []string) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read what servers share: %w", err)
		}
		files[name] = data
	}
	return files, nil
}

// fileMode lets nobody else read what servers share.
const fileMode fs.FileMode = 0o600

// WriteFiles writes those of files that are among names below dir: whoever sent them decides their content, not where
// they go. Cut short, it is done again.
func WriteFiles(dir string, names []string, files map[string][]byte) error {
	for _, name := range names {
		data, ok := files[name]
		if !ok {
			continue
		}
		file := filepath.Join(dir, name)
		if err := atomicfile.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if _, err := atomicfile.WriteIfChanged(file, data, fileMode); err != nil {
			return fmt.Errorf("keep what servers share: %w", err)
		}
	}
	return nil
}

// Bundle fetches what a server needs to become one of the cluster's, with the server token.
func (c *Client) Bundle(ctx context.Context) (Bundle, error) {
	config, err := c.tls()
	if err != nil {
		return Bundle{}, err
	}
	body, _, err := c.get(ctx, config, pathServer)
	if err != nil {
		return Bundle{}, err
	}
	var b Bundle
	if err := json.Unmarshal(body, &b); err != nil {
		return Bundle{}, fmt.Errorf("server %s: read what servers share: %w", c.URL.Host, err)
	}
	return b, nil
}

// serveServer makes whoever has the server token a server.
func (s *Server) serveServer(w http.ResponseWriter, r *http.Request) error {
	who, err := s.authenticate(r)
	if err != nil {
		return err
	}
	if !who.joinsServers {
		return refuse(http.StatusForbidden, "this token joins agents only: take the one in server/token of a server's data-dir, which `knarr token join-command --role server` prints")
	}
	node := r.Header.Get(headerNode)
	if !s.config.Apart {
		if _, err := s.admit(r.Context(), node, r.Header.Get(headerPassword)); err != nil {
			return err
		}
	}
	b, err := s.config.Bundle(r.Context())
	if err != nil {
		return err
	}
	s.log.Info("a server was given what servers share", "node", node, "from", r.RemoteAddr, "members", slices.Sorted(slices.Values(b.Etcd)))
	return reply(w, b)
}
