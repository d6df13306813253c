package join

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	bootstrap "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/util"

	"github.com/knarr-io/knarr/pkg/token"
)

// NodeGroup is the group that a bootstrap token must give for agents to join with it, beside kubeadm's, so that a token
// made for something else joins nothing.
const NodeGroup = "system:bootstrappers:knarr:default-node-token"

// joiningGroups are the groups of which a bootstrap token needs one.
func joiningGroups() []string {
	return []string{NodeGroup, "system:bootstrappers:kubeadm:default-node-token"}
}

// Usages are what a bootstrap token can be good for.
func Usages() []string { return []string{"authentication", "signing"} }

// Bootstrap is a bootstrap token as `knarr token` shows and makes it.
type Bootstrap struct {
	Token       token.Token
	Description string
	// Expires is zero for one that does not.
	Expires time.Time
	Usages  []string
	Groups  []string
}

// Expired reports whether b has ended.
func (b Bootstrap) Expired(now time.Time) bool { return !b.Expires.IsZero() && !now.Before(b.Expires) }

// CreateBootstrap stores a bootstrap token in the cluster, where kube-apiserver and the controllers know it as well
// (bootstrap.kubernetes.io/token Secrets).
func CreateBootstrap(ctx context.Context, client kubernetes.Interface, b Bootstrap) error {
	id, secret, ok := strings.Cut(b.Token.Bearer(), ".")
	if !ok {
		return errors.New("create bootstrap token: want one of the form ID.SECRET, 6 and 16 characters of a-z and 0-9")
	}
	data := map[string][]byte{
		bootstrap.BootstrapTokenIDKey:     []byte(id),
		bootstrap.BootstrapTokenSecretKey: []byte(secret),
	}
	if b.Description != "" {
		data[bootstrap.BootstrapTokenDescriptionKey] = []byte(b.Description)
	}
	if !b.Expires.IsZero() {
		data[bootstrap.BootstrapTokenExpirationKey] = []byte(b.Expires.UTC().Format(time.RFC3339))
	}
	for _, u := range b.Usages {
		if !slices.Contains(Usages(), u) {
			return fmt.Errorf("create bootstrap token: usage %q is not known: use %s", u, strings.Join(Usages(), " or "))
		}
		data[bootstrap.BootstrapTokenUsagePrefix+u] = []byte("true")
	}
	for _, g := range b.Groups {
		if err := util.ValidateBootstrapGroupName(g); err != nil {
			return fmt.Errorf("create bootstrap token: %w", err)
		}
	}
	if len(b.Groups) > 0 {
		data[bootstrap.BootstrapTokenExtraGroupsKey] = []byte(strings.Join(b.Groups, ","))
	}
	_, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: util.BootstrapTokenSecretName(id), Namespace: metav1.NamespaceSystem},
		Type:       bootstrap.SecretTypeBootstrapToken,
		Data:       data,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create bootstrap token %s: %w", id, err)
	}
	return nil
}

// ListBootstrap returns the cluster's bootstrap tokens, those that are not well formed left out.
func ListBootstrap(ctx context.Context, client kubernetes.Interface) ([]Bootstrap, error) {
	secrets, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(bootstrap.SecretTypeBootstrapToken)})
	if err != nil {
		return nil, fmt.Errorf("list bootstrap tokens: %w", err)
	}
	var list []Bootstrap
	for i := range secrets.Items {
		if b, err := parseBootstrap(&secrets.Items[i]); err == nil {
			list = append(list, b)
		}
	}
	return list, nil
}

// DeleteBootstrap removes a bootstrap token by its id or its whole text.
func DeleteBootstrap(ctx context.Context, client kubernetes.Interface, id string) error {
	id, _, _ = strings.Cut(id, ".")
	err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, util.BootstrapTokenSecretName(id), metav1.DeleteOptions{})
	if err != nil {
		return fmt.Errorf("delete bootstrap token %q: %w", id, err)
	}
	return nil
}

func parseBootstrap(s *corev1.Secret) (Bootstrap, error) {
	text := string(s.Data[bootstrap.BootstrapTokenIDKey]) + "." + string(s.Data[bootstrap.BootstrapTokenSecretKey])
	t, err := token.Parse(text)
	if err != nil {
		return Bootstrap{}, err
	}
	if !t.IsBootstrap() || util.BootstrapTokenSecretName(t.ID()) != s.Name {
		return Bootstrap{}, fmt.Errorf("secret %s is no bootstrap token", s.Name)
	}
	b := Bootstrap{Token: t, Description: string(s.Data[bootstrap.BootstrapTokenDescriptionKey])}
	if at := string(s.Data[bootstrap.BootstrapTokenExpirationKey]); at != "" {
		if b.Expires, err = time.Parse(time.RFC3339, at); err != nil {
			return Bootstrap{}, fmt.Errorf("secret %s: %w", s.Name, err)
		}
	}
	for _, u := range Usages() {
		if string(s.Data[bootstrap.BootstrapTokenUsagePrefix+u]) == "true" {
			b.Usages = append(b.Usages, u)
		}
	}
	for g := range strings.SplitSeq(string(s.Data[bootstrap.BootstrapTokenExtraGroupsKey]), ",") {
		if g = strings.TrimSpace(g); g != "" {
			b.Groups = append(b.Groups, g)
		}
	}
	return b, nil
}

// byBootstrapToken follows upstream's authenticator (plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go:94) and
// tells apart what is wrong, once the secret was right.
func (s *Server) byBootstrapToken(ctx context.Context, text string) (caller, error) {
	unknown := refuse(http.StatusUnauthorized, "the bootstrap token is not one of this cluster, or has expired and was removed: see `knarr token list` on a server, and make one with `knarr token create`")
	given, err := token.Parse(text)
	if err != nil || !given.IsBootstrap() {
		return caller{}, unknown
	}
	client, err := s.api()
	if err != nil {
		return caller{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	secret, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, util.BootstrapTokenSecretName(given.ID()), metav1.GetOptions{})
	if ignoreMissing(err) != nil {
		return caller{}, fmt.Errorf("look up bootstrap token: %w", err)
	}
	if err != nil || secret.Type != bootstrap.SecretTypeBootstrapToken || secret.DeletionTimestamp != nil {
		return caller{}, unknown
	}
	have, err := parseBootstrap(secret)
	if err != nil || subtle.ConstantTimeCompare([]byte(have.Token.Bearer()), []byte(given.Bearer())) != 1 {
		return caller{}, unknown
	}
	switch {
	case have.Expired(s.now()):
		return caller{}, refuse(http.StatusUnauthorized, "the bootstrap token %s expired at %s: make one with `knarr token create` on a server", given.ID(), have.Expires.UTC().Format(time.RFC3339))
	case !slices.Contains(have.Usages, "authentication"):
		return caller{}, refuse(http.StatusUnauthorized, "the bootstrap token %s is not for authentication: make one with --usages authentication", given.ID())
	case !slices.ContainsFunc(have.Groups, func(g string) bool { return slices.Contains(joiningGroups(), g) }):
		return caller{}, refuse(http.StatusForbidden, "the bootstrap token %s does not join agents: it is in none of the groups %s", given.ID(), strings.Join(joiningGroups(), " and "))
	}
	return caller{}, nil
}
