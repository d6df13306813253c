package join

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
)

// The rule of node names. The first machine that joins as a node brings a password of its own making, and the cluster
// keeps its hash in a Secret. From then on the name is that machine's: another with a good token, but without the
// password, is refused, because whoever is the node is given the secrets of the node's pods. The name is free again when
//
//   - the Node object is deleted, or
//   - somebody says so: `knarr token allow-node NAME` ([AllowNode]), for a machine that was set up anew.
//
// A node with a valid certificate needs no password.
const (
	secretSuffix = ".node-password.knarr"
	secretType   = corev1.SecretType("knarr.io/node-password")
	hashKey      = "hash"
	// allowedUntil is an annotation: the time until which the next machine may take the name.
	allowedUntil = "knarr.io/allowed-until"
	// AllowFor is how long an allowance lasts.
	AllowFor = time.Hour
	// joinedAt is an annotation: when the machine whose password it is joined.
	joinedAt = "knarr.io/joined-at"
	// registering is how long a machine that has joined may take to register its Node.
	registering = 2 * time.Minute
)

func hashOf(password string) string {
	// The password is 128 random bits: it needs no slow hash.
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// AllowNode lets the next machine that joins as node have the name, whoever had it before.
func AllowNode(ctx context.Context, client kubernetes.Interface, node string, now time.Time) error {
	if problems := validation.IsDNS1123Subdomain(node); len(problems) > 0 {
		return fmt.Errorf("allow node %q: %s", node, problems[0])
	}
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	until := now.Add(AllowFor).UTC().Format(time.RFC3339)
	secret, err := secrets.Get(ctx, node+secretSuffix, metav1.GetOptions{})
	if ignoreMissing(err) != nil {
		return fmt.Errorf("allow node %s: %w", node, err)
	}
	if err != nil {
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: node + secretSuffix, Namespace: metav1.NamespaceSystem, Annotations: map[string]string{allowedUntil: until}},
			Type:       secretType,
		}
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	} else {
		metav1.SetMetaDataAnnotation(&secret.ObjectMeta, allowedUntil, until)
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("allow node %s: %w", node, err)
	}
	return nil
}

// take makes the name that of the machine with password.
func (s *Server) take(secret *corev1.Secret, password string) *corev1.Secret {
	secret.Data = map[string][]byte{hashKey: []byte(hashOf(password))}
	secret.Annotations = map[string]string{joinedAt: s.now().UTC().Format(time.RFC3339)}
	return secret
}

// admit applies the rule to a machine with a good token and returns the node's name.
func (s *Server) admit(ctx context.Context, node, password string) (string, error) {
	if problems := validation.IsDNS1123Subdomain(node); len(problems) > 0 {
		return "", refuse(http.StatusBadRequest, "node name %q: %s", node, problems[0])
	}
	if password == "" {
		return "", refuse(http.StatusBadRequest, "the agent sent no node password")
	}
	client, err := s.api()
	if err != nil {
		return "", err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	secret, err := secrets.Get(ctx, node+secretSuffix, metav1.GetOptions{})
	switch {
	case ignoreMissing(err) != nil:
		return "", fmt.Errorf("look up the password of node %s: %w", node, err)
	case err != nil:
		if err := s.free(ctx, client, node, nil); err != nil {
			return "", err
		}
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: node + secretSuffix, Namespace: metav1.NamespaceSystem}, Type: secretType}
		_, err = secrets.Create(ctx, s.take(secret, password), metav1.CreateOptions{})
	case subtle.ConstantTimeCompare(secret.Data[hashKey], []byte(hashOf(password))) == 1:
		return node, nil
	default:
		if err := s.free(ctx, client, node, secret); err != nil {
			return "", err
		}
		_, err = secrets.Update(ctx, s.take(secret, password), metav1.UpdateOptions{})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return "", refuse(http.StatusConflict, "another machine is joining as node %q at this moment: give this one another name with --node-name", node)
	}
	if err != nil {
		return "", fmt.Errorf("keep the password of node %s: %w", node, err)
	}
	s.log.Info("a machine joins", "node", node)
	return node, nil
}

// free says whether a machine may take the name that secret, if not nil, gives to another.
func (s *Server) free(ctx context.Context, client kubernetes.Interface, node string, secret *corev1.Secret) error {
	if secret != nil {
		if s.now().Before(stamped(secret, allowedUntil)) {
			return nil
		}
	}
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if ignoreMissing(err) != nil {
		return fmt.Errorf("look up node %s: %w", node, err)
	}
	state := "it has just joined"
	if err == nil {
		state = describe(n)
	} else if secret == nil || s.now().Sub(stamped(secret, joinedAt)) > registering {
		return nil // the Node was deleted, or there never was one
	}
	return refuse(http.StatusConflict, "there is a node %q already (%s), and this machine cannot show that it is the same: if it is, and was set up anew, run `knarr token allow-node %s` on a server and start it again; else give it another name with --node-name or --with-node-id", node, state, node)
}

// stamped is a time in an annotation, long ago when there is none.
func stamped(secret *corev1.Secret, annotation string) time.Time {
	at, err := time.Parse(time.RFC3339, secret.Annotations[annotation])
	if err != nil {
		return time.Time{}
	}
	return at
}

// describe tells a person which machine it is.
func describe(n *corev1.Node) string {
	state := "NotReady"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			state = "Ready"
		}
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return state + ", " + a.Address
		}
	}
	return state
}

// checkAddresses refuses addresses of another node: a serving certificate for them would let one node pose as another.
func (s *Server) checkAddresses(ctx context.Context, node string, ips []netip.Addr) error {
	client, err := s.api()
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	// From the watch cache: a list of all nodes for each of the few certificates that a joining node asks for.
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("look up the addresses of nodes: %w", err)
	}
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if n.Name != node && err == nil && a.Type == corev1.NodeInternalIP && slices.Contains(ips, ip) {
				return refuse(http.StatusConflict, "the address %s of node %q is that of node %q: give each its own with --node-ip", ip, node, n.Name)
			}
		}
	}
	return nil
}
