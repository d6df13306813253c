package etcd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/retry"
)

// Info describes a member of the cluster.
type Info struct {
	ID   uint64 `json:"id"`
	Name string `json:"name"` // empty while it never ran
	// PeerURLs are where other members reach it, ClientURLs where clients do.
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs,omitempty"`
	Learner    bool     `json:"learner,omitempty"`
	Leader     bool     `json:"leader,omitempty"`
}

// Node is the name of the node that the member runs on, as [Config] had it.
func (i Info) Node() string {
	if cut := len(i.Name) - idLength - 1; cut > 0 && i.Name[cut] == '-' {
		return i.Name[:cut]
	}
	return i.Name
}

// idLength is how many hexadecimal digits follow the node's name.
const idLength = 8

// memberName reads the member's name, or draws it.
func memberName(dir, node string) (string, error) {
	file := filepath.Join(dir, "name")
	data, err := os.ReadFile(file)
	if name := strings.TrimSpace(string(data)); err == nil && name != "" {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read etcd member's name: %w", err)
	}
	raw := make([]byte, idLength/2)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw etcd member's name: %w", err)
	}
	name := node + "-" + hex.EncodeToString(raw)
	if err := atomicfile.Write(file, []byte(name+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write etcd member's name: %w", err)
	}
	return name, nil
}

// Connect returns a client of the members at some client URLs.
func Connect(ctx context.Context, urls []string, t TLS) (*clientv3.Client, error) {
	conf, err := t.client()
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: urls, TLS: conf, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return c, nil
}

// AddMember takes a new member into the cluster, as a learner, which does not count for a quorum, and returns its id and
// all members. One that was added before and never ran is taken for it.
func AddMember(ctx context.Context, c *clientv3.Client, peerURL string) (uint64, []Info, error) {
	members, err := Members(ctx, c)
	if err != nil {
		return 0, nil, err
	}
	for _, m := range members {
		if !slices.Contains(m.PeerURLs, peerURL) {
			continue
		}
		if m.Name == "" {
			return m.ID, members, nil
		}
		return 0, nil, fmt.Errorf("add member to etcd cluster: %s is member %s already; if that lost its data, remove it first: "+
			"kubectl delete node %s or, if it has none, knarr datastore remove-member %s", peerURL, m.Name, m.Node(), m.Node())
	}
	r, err := c.MemberAddAsLearner(ctx, []string{peerURL})
	if err != nil {
		return 0, nil, fmt.Errorf("add member to etcd cluster: %w", err)
	}
	return r.Member.ID, infos(r.Members, 0), nil
}

// Members lists the cluster's members.
func Members(ctx context.Context, c *clientv3.Client) ([]Info, error) {
	r, err := c.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list etcd members: %w", err)
	}
	return infos(r.Members, 0), nil
}

// RemoveMember takes the members of a node out of the cluster and returns their names. None is no error.
func RemoveMember(ctx context.Context, c *clientv3.Client, node string) ([]string, error) {
	members, err := Members(ctx, c)
	if err != nil {
		return nil, err
	}
	voters := 0
	for _, m := range members {
		if !m.Learner {
			voters++
		}
	}
	var gone []string
	for _, m := range members {
		if m.Name == "" || m.Node() != node {
			continue
		}
		if !m.Learner && voters == 1 {
			return gone, fmt.Errorf("remove member %s from etcd cluster: it is the last one", m.Name)
		}
		if err := remove(ctx, c, m.ID); err != nil {
			return gone, fmt.Errorf("remove member %s from etcd cluster: %w", m.Name, err)
		}
		gone = append(gone, m.Name)
	}
	return gone, nil
}

// steady is how long etcd may take, after one change of members, to take another: it wants all of them connected for five
// seconds (etcd server/etcdserver/server.go, HealthInterval).
const steady = 15 * time.Second

// remove takes a member out, if it is in.
func remove(ctx context.Context, c *clientv3.Client, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, steady)
	defer cancel()
	return retry.Until(ctx, "the members to be connected", retry.Backoff{First: 200 * time.Millisecond, Max: time.Second}, func(ctx context.Context) (bool, error) {
		_, err := c.MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return true, nil
		}
		return !errors.Is(err, rpctypes.ErrUnhealthy), err
	})
}

func infos(members []*etcdserverpb.Member, leader uint64) []Info {
	var out []Info
	for _, m := range members {
		out = append(out, Info{
			ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner, Leader: m.ID == leader,
		})
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func memberNames(members []Info) string {
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// List is what this member knows of the cluster, which may be out of date without a quorum.
func (m *Member) List() []Info {
	var out []Info
	for _, x := range m.etcd.Server.Cluster().Members() {
		out = append(out, Info{
			ID: uint64(x.ID), Name: x.Name, PeerURLs: x.PeerURLs, ClientURLs: x.ClientURLs,
			Learner: x.IsLearner, Leader: x.ID == m.etcd.Server.Leader(),
		})
	}
	return out
}

// join adds this member to the cluster and returns what it has to know of the others, for --initial-cluster.
func join(ctx context.Context, c Config, name string, log *slog.Logger) (string, error) {
	client, err := Connect(ctx, c.Join, c.Client)
	if err != nil {
		return "", err
	}
	defer client.Close()
	self := endpoint(c.Address, PeerPort)
	for {
		id, members, err := AddMember(ctx, client, self.String())
		if err == nil {
			var all []string
			for _, m := range members {
				if m.ID == id {
					m.Name = name
				}
				for _, u := range m.PeerURLs {
					all = append(all, m.Name+"="+u)
				}
			}
			return strings.Join(all, ","), nil
		}
		// One learner at a time, and none while members are down: both pass.
		if !errors.Is(err, rpctypes.ErrTooManyLearners) && !errors.Is(err, rpctypes.ErrUnhealthy) {
			return "", err
		}
		log.Info("waiting to join the etcd cluster", "error", err)
		if err := pause(ctx); err != nil {
			return "", err
		}
	}
}

// becomeVoter has this learner promoted once it has caught up, which another member has to do.
func (m *Member) becomeVoter(ctx context.Context) error {
	urls := slices.Clone(m.config.Join)
	for _, x := range m.List() {
		if x.ID != uint64(m.etcd.Server.MemberID()) && !x.Learner {
			urls = append(urls, x.ClientURLs...)
		}
	}
	client, err := Connect(ctx, urls, m.config.Client)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		_, err := client.MemberPromote(ctx, uint64(m.etcd.Server.MemberID()))
		switch {
		case err == nil, errors.Is(err, rpctypes.ErrMemberNotLearner):
			return m.promoted(ctx)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
			m.log.Warn("waiting to become a full member of the etcd cluster", "error", err)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// promoted waits until this member knows that it was promoted.
func (m *Member) promoted(ctx context.Context) error {
	for m.etcd.Server.IsLearner() {
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
