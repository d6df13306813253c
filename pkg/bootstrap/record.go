package bootstrap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/token"
)

// key is where the record is, outside of what kube-apiserver knows.
const key = "/knarr/bootstrap"

// format is the newest form of the record that this version reads, and the one that it writes.
const format = 1

// record is what is stored. It is read by servers of other versions.
type record struct {
	Format int `json:"format"`
	// Sealed is the payload, encrypted with the server token.
	Sealed string `json:"sealed"`
	// Token is the server token, encrypted with the key of the cluster's CA: servers that have that learn a new token
	// here. Whoever knows only an old token learns nothing.
	Token string `json:"token"`
	// Settings are those that all servers have to have alike.
	Settings []join.Setting `json:"settings,omitempty"`
}

// payload is the secret part.
type payload struct {
	Files      map[string][]byte `json:"files"`
	AgentToken string            `json:"agentToken,omitempty"`
}

// seal makes a record.
func seal(p payload, server token.Token, caKey []byte, settings []join.Setting) (record, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return record{}, fmt.Errorf("encode what servers share: %w", err)
	}
	sealed, err := token.Encrypt(server.Password(), text)
	if err != nil {
		return record{}, err
	}
	next, err := token.Encrypt(passphrase(caKey), []byte(server.Password()))
	if err != nil {
		return record{}, err
	}
	return record{Format: format, Sealed: string(sealed), Token: string(next), Settings: settings}, nil
}

// open decrypts the payload with the server token.
func (r record) open(server token.Token) (payload, error) {
	text, err := token.Decrypt(server.Password(), []byte(r.Sealed))
	if err != nil {
		return payload{}, err
	}
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return payload{}, fmt.Errorf("decode what servers share: %w", err)
	}
	return p, nil
}

// current is the server token that the record was sealed with, for who has the key of the CA.
func (r record) current(caKey []byte) (token.Token, error) {
	text, err := token.Decrypt(passphrase(caKey), []byte(r.Token))
	if err != nil {
		return token.Token{}, err
	}
	return token.New(token.UserServer, string(text))
}

// passphrase keeps the key itself out of the derivation's input, and this use apart from others.
func passphrase(caKey []byte) string {
	sum := sha256.Sum256(append([]byte("knarr server token\n"), caKey...))
	return hex.EncodeToString(sum[:])
}

// stored is a record with its revision, 0 when there is none.
type stored struct {
	record
	revision int64
	// asOf is the datastore's revision when it was read.
	asOf int64
}

// load reads the record.
func load(ctx context.Context, client *clientv3.Client) (stored, error) {
	r, err := client.Get(ctx, key)
	if err != nil {
		return stored{}, fmt.Errorf("read what servers share from the datastore: %w", err)
	}
	s := stored{asOf: r.Header.Revision}
	if len(r.Kvs) == 0 {
		return s, nil
	}
	s.revision = r.Kvs[0].ModRevision
	if err := json.Unmarshal(r.Kvs[0].Value, &s.record); err != nil {
		return stored{}, fmt.Errorf("decode what servers share in the datastore, %s: %w", key, err)
	}
	if s.Format > format {
		return stored{}, errors.New("what servers share in the datastore was written by a newer version of knarr: use that version here, too")
	}
	return s, nil
}

// store replaces the record if it is still that of revision, and reports whether it was.
func store(ctx context.Context, client *clientv3.Client, r record, revision int64) (bool, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return false, fmt.Errorf("encode what servers share: %w", err)
	}
	// In the two forms that kine knows (kine pkg/server/create.go and update.go).
	txn := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(clientv3.OpPut(key, string(value)))
	if revision != 0 {
		txn = txn.Else(clientv3.OpGet(key))
	}
	reply, err := txn.Commit()
	if err != nil {
		return false, fmt.Errorf("store what servers share in the datastore: %w", err)
	}
	return reply.Succeeded, nil
}
