package pki

import (
	"bytes"
	"crypto"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/util/keyutil"
)

// Action is what Ensure did to a file.
type Action string

// What Ensure does.
const (
	Created  Action = "created"  // it was not there
	Renewed  Action = "renewed"  // its time was running out
	Reissued Action = "reissued" // it was damaged or did not fit
	Updated  Action = "updated"  // a file made from others: kubeconfig, copy of a CA
)

// Change is one thing that Ensure did.
type Change struct {
	Name   string
	Path   string // the certificate, of a pair
	Action Action
	Reason string
}

// Result is what Ensure found and did.
type Result struct {
	Changes []Change
	// Warnings are full sentences about what will need a person.
	Warnings []string
	// NextExpiry is the first end among the leaf certificates now in place.
	NextExpiry time.Time
}

// Ensure makes the files under c.DataDir, and the administrator's kubeconfig,
// match c at the time now. It may run at any time, beside anything that reads
// the files, and after having been killed at any point of an earlier run.
//
// An error names the file and what to do about it; files already written by
// then are valid and stay. It wraps ErrClock where the clock is to blame.
func Ensure(now time.Time, c Config) (Result, error) {
	return ensure(now, c, nil, writeFile)
}

// Rotate is Ensure that also issues the leaf certificates of the named services
// (see Services) anew, with new private keys, however long they still live.
func Rotate(now time.Time, c Config, services []string) (Result, error) {
	known := Services()
	for _, s := range services {
		if !slices.Contains(known, s) {
			return Result{}, fmt.Errorf("rotate certificates: unknown service %q: use one of %s", s, strings.Join(known, ", "))
		}
	}
	return ensure(now, c, services, writeFile)
}

// run is one pass over the tables.
type run struct {
	cfg    Config
	plan   Plan
	now    time.Time
	rotate []string
	write  writeFunc
	// sign has leaf signed for key; nil: with the authority's own key.
	sign func(leaf PlannedLeaf, key crypto.Signer) ([]byte, error)

	authorities [numCAs]*authority
	leaves      [numLeaves]leafState
	result      Result
}

func ensure(now time.Time, c Config, rotate []string, write writeFunc) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	r := &run{cfg: c, plan: NewPlan(c), now: now, rotate: rotate, write: write}
	unlock, err := lockDirectories(c)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	for _, stage := range []func() error{r.ensureCAs, r.ensureServiceKey, r.ensureCopies, r.ensureLeaves, r.ensureKubeconfigs} {
		if err := stage(); err != nil {
			return r.result, err
		}
	}
	return r.result, nil
}

func (r *run) ensureCAs() error {
	for _, want := range r.plan.CAs {
		a, err := r.ensureCA(want)
		if err != nil {
			return fmt.Errorf("%s %s: %w", want.Name, want.Pair.Cert, err)
		}
		for _, w := range a.warnings {
			r.result.Warnings = append(r.result.Warnings, fmt.Sprintf("%s %s %s", want.Name, want.Pair.Cert, w))
		}
		r.authorities[want.ID] = a
	}
	return nil
}

// ensureCA loads an authority, or makes one where there was none. The key is
// on disk before its certificate, so that a key alone, with nothing signed by
// it yet, can only be a first start that was cut short.
func (r *run) ensureCA(want PlannedCA) (*authority, error) {
	certPEM, keyPEM, err := readPair(want.Pair)
	if err != nil {
		return nil, err
	}
	switch {
	case certPEM != nil && keyPEM != nil:
		return loadCA(want, certPEM, keyPEM, r.now)
	case certPEM != nil:
		return nil, fmt.Errorf("its private key %s is missing: restore it from a backup or from another server; to begin with a new CA instead, which every node and kubeconfig must be given, remove the certificate", want.Pair.Key)
	case keyPEM != nil && r.signedAnything(want.ID):
		return nil, fmt.Errorf("the file is missing while its private key is there: restore it from a backup or from another server; to begin with a new CA instead, which every node and kubeconfig must be given, remove %s", want.Pair.Key)
	}
	if r.now.Before(earliestClock()) {
		return nil, fmt.Errorf("not made, because this machine's clock says %s: %w; set it, for example with NTP, and start again", stamp(r.now), ErrClock)
	}
	return r.createCA(want, keyPEM)
}

func loadCA(want PlannedCA, certPEM, keyPEM []byte, now time.Time) (*authority, error) {
	const advice = "%w; every node trusts this CA, so it is never replaced by itself: restore %s and %s from a backup or from another server"
	a, err := parseAuthority(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf(advice, err, want.Pair.Cert, want.Pair.Key)
	}
	if err := a.checkLife(now); err != nil {
		return nil, err
	}
	if err := a.checkChain(now); err != nil {
		return nil, fmt.Errorf(advice, err, want.Pair.Cert, want.Pair.Key)
	}
	return a, nil
}

func (r *run) createCA(want PlannedCA, keyPEM []byte) (*authority, error) {
	reason := "missing"
	var key crypto.Signer
	var err error
	if keyPEM != nil {
		reason = "an earlier first start was cut short"
		if key, err = parseKey(keyPEM); err != nil {
			return nil, fmt.Errorf("its private key %s cannot be read (%w): remove the key to begin with a new CA", want.Pair.Key, err)
		}
	} else {
		if key, keyPEM, err = newKey(); err != nil {
			return nil, err
		}
		if err := r.write(want.Pair.Key, keyPEM, keyMode, durable); err != nil {
			return nil, err
		}
	}
	a, err := newAuthority(want.Name, key, r.now)
	if err != nil {
		return nil, err
	}
	if err := r.write(want.Pair.Cert, a.bundle, certMode, durable); err != nil {
		return nil, err
	}
	r.changed(want.Name, want.Pair.Cert, Created, reason)
	return a, nil
}

// signedAnything reports whether a leaf of ca is on disk, valid or not.
func (r *run) signedAnything(ca CA) bool {
	return slices.ContainsFunc(r.plan.Leaves, func(l PlannedLeaf) bool {
		_, err := os.Lstat(l.Pair.Cert)
		return l.CA == ca && err == nil
	})
}

// ensureServiceKey makes the key that signs service account tokens. An EC key
// signs with ES256 (kubernetes v1.37.1 pkg/serviceaccount/jwt.go:152-163); an
// RSA key placed by the user is kept.
func (r *run) ensureServiceKey() error {
	path := r.plan.ServiceKey
	data, err := readFile(path)
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	if data != nil {
		if _, err := parseKey(data); err != nil {
			return fmt.Errorf("service account key %s: %w: restore it from a backup or from another server; to begin with a new key instead, which ends every service account token issued so far, remove the file", path, err)
		}
		if _, err := keyutil.ParsePublicKeysPEM(data); err != nil {
			return fmt.Errorf("service account key %s: kube-apiserver cannot use it: %w: use an RSA or ECDSA key", path, err)
		}
		return keepPrivate(path)
	}
	_, keyPEM, err := newKey()
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	if err := r.write(path, keyPEM, keyMode, durable); err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	r.changed("service account key", path, Created, "missing")
	return nil
}

// ensureCopies gives the agent's components the certificates of the
// authorities.
func (r *run) ensureCopies() error {
	for _, ca := range r.plan.CAs {
		if ca.CopyTo == "" {
			continue
		}
		if err := r.derived(ca.Name+" for the agent", ca.CopyTo, r.authorities[ca.ID].bundle, certMode); err != nil {
			return err
		}
	}
	return nil
}

// derived writes a file that is made from others, if it differs.
func (r *run) derived(name, path string, data []byte, mode fs.FileMode) error {
	have, err := readFile(path)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	action, reason := Updated, "its content changed"
	switch {
	case have == nil:
		action, reason = Created, "missing"
	case bytes.Equal(have, data):
		return nil
	}
	if err := r.write(path, data, mode, replaceable); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.changed(name, path, action, reason)
	return nil
}

func (r *run) ensureLeaves() error {
	for _, want := range r.plan.Leaves {
		if err := r.ensureLeaf(want); err != nil {
			return fmt.Errorf("%s certificate: %w", want.Name, err)
		}
	}
	return nil
}

// ensureLeaf issues one leaf certificate where that is called for. A private
// key that can be used is kept, so that a renewal under a running process
// replaces one file in one rename, and no reader ever sees a certificate beside
// a key of another time. Rotate replaces the key too: key first, so that the
// state between the two is one the next run repairs.
func (r *run) ensureLeaf(want PlannedLeaf) error {
	certPEM, keyPEM, err := readPair(want.Pair)
	if err != nil {
		return err
	}
	ca := r.authorities[want.CA]
	s := inspectLeaf(want, certPEM, keyPEM, ca, r.now, r.cfg.renewBefore())
	rotate := slices.Contains(r.rotate, want.Service)
	if s.problem != "" || rotate {
		if rotate && s.problem == "" {
			s.problem = "asked for"
		}
		if s.key == nil || rotate {
			if s.key, s.keyPEM, err = newKey(); err != nil {
				return err
			}
			if err := r.write(want.Pair.Key, s.keyPEM, keyMode, replaceable); err != nil {
				return err
			}
		}
		if s, err = r.issueLeaf(want, s, ca); err != nil {
			return err
		}
	}
	r.leaves[want.ID] = s
	if r.result.NextExpiry.IsZero() || s.cert.NotAfter.Before(r.result.NextExpiry) {
		r.result.NextExpiry = s.cert.NotAfter
	}
	return nil
}

func (r *run) issueLeaf(want PlannedLeaf, s leafState, ca *authority) (leafState, error) {
	action := Reissued
	switch {
	case s.certPEM == nil:
		action = Created
	case s.cert != nil && s.problem == timeProblem(s.cert, ca, r.now, r.cfg.renewBefore()):
		action = Renewed
	}
	certPEM, err := r.signLeaf(want, s.key, ca)
	if err != nil {
		return s, err
	}
	if err := r.write(want.Pair.Cert, certPEM, certMode, replaceable); err != nil {
		return s, err
	}
	r.changed(want.Name, want.Pair.Cert, action, s.problem)
	fresh := inspectLeaf(want, certPEM, s.keyPEM, ca, r.now, r.cfg.renewBefore())
	if fresh.problem != "" {
		return s, fmt.Errorf("the certificate just issued at %s is not good: %s: report this as a bug of knarr", want.Pair.Cert, fresh.problem)
	}
	return fresh, nil
}

func (r *run) signLeaf(want PlannedLeaf, key crypto.Signer, ca *authority) ([]byte, error) {
	if r.sign != nil {
		return r.sign(want, key)
	}
	return ca.issue(want, key.Public(), r.now, r.cfg.leafLifetime())
}

func (r *run) changed(name, path string, action Action, reason string) {
	r.result.Changes = append(r.result.Changes, Change{Name: name, Path: path, Action: action, Reason: reason})
}
