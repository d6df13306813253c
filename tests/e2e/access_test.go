package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/knarr-io/knarr/tests/cluster"
)

// allow gives a subject the right to read ConfigMaps in the test's namespace.
func (e *env) allow(subject rbacv1.Subject) {
	e.t.Helper()
	_, err := e.client.RbacV1().Roles(e.ns).Create(e.ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list"}}}}, metav1.CreateOptions{})
	e.must(err)
	_, err = e.client.RbacV1().RoleBindings(e.ns).Create(e.ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"}}, metav1.CreateOptions{})
	e.must(err)
}

// as makes a client that only trusts the server's CA and has what give adds.
func (e *env) as(give func(*rest.Config)) *cluster.Client {
	e.t.Helper()
	conf := rest.AnonymousClientConfig(e.client.Config)
	give(conf)
	c, err := cluster.ClientFor(conf)
	e.must(err)
	return c
}

// mayOnlyReadConfigMaps checks what allow has given.
func (e *env) mayOnlyReadConfigMaps(c *cluster.Client) {
	e.t.Helper()
	e.eventually("the right to read", func() error {
		_, err := c.CoreV1().ConfigMaps(e.ns).List(e.ctx, metav1.ListOptions{})
		return err
	})
	if _, err := c.CoreV1().Secrets(e.ns).List(e.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		e.t.Errorf("reading Secrets gives %v, want Forbidden", err)
	}
	if _, err := c.CoreV1().ConfigMaps("default").List(e.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		e.t.Errorf("reading another namespace gives %v, want Forbidden", err)
	}
	_, err := c.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		e.t.Errorf("writing gives %v, want Forbidden", err)
	}
}

func TestImpersonation(t *testing.T) {
	e := inNamespace(t)
	e.allow(rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "jane"})
	conf := rest.CopyConfig(e.client.Config)
	conf.Impersonate = rest.ImpersonationConfig{UserName: "jane"}
	jane, err := cluster.ClientFor(conf)
	e.must(err)
	e.mayOnlyReadConfigMaps(jane)
	who, err := jane.AuthenticationV1().SelfSubjectReviews().Create(e.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "jane" {
		t.Errorf("the API takes jane for %+v, %v", who, err)
	}
}

func TestServiceAccountToken(t *testing.T) {
	e := inNamespace(t)
	e.allow(rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: e.ns, Name: "default"})
	token, err := e.client.CoreV1().ServiceAccounts(e.ns).CreateToken(e.ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	e.must(err)
	e.mayOnlyReadConfigMaps(e.as(func(c *rest.Config) { c.BearerToken = token.Status.Token }))
	forged := e.as(func(c *rest.Config) { c.BearerToken = token.Status.Token[:len(token.Status.Token)-8] + "AAAAAAAA" })
	if _, err := forged.CoreV1().ConfigMaps(e.ns).List(e.ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a forged token gives %v, want Unauthorized", err)
	}
}

func TestAnonymousMayNothing(t *testing.T) {
	e := inNamespace(t)
	anonymous := e.as(func(*rest.Config) {})
	if _, err := anonymous.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		t.Errorf("without credentials the API says %v", err)
	}
}

// TestCertificateSigningRequest makes a new user the way an administrator does.
func TestCertificateSigningRequest(t *testing.T) {
	e := inNamespace(t)
	user := "user-of-" + e.ns
	e.allow(rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	e.must(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: user}}, key)
	e.must(err)
	requests := e.client.CertificatesV1().CertificateSigningRequests()
	csr, err := requests.Create(e.ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}, metav1.CreateOptions{})
	e.must(err)
	if len(csr.Status.Certificate) != 0 {
		t.Error("a certificate was given before anybody approved")
	}
	e.mustKubectl("certificate", "approve", csr.Name)
	e.eventually("the certificate", func() error {
		csr, err = requests.Get(e.ctx, csr.Name, metav1.GetOptions{})
		if err == nil && len(csr.Status.Certificate) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	keyDER, err := x509.MarshalECPrivateKey(key)
	e.must(err)
	e.mayOnlyReadConfigMaps(e.as(func(c *rest.Config) {
		c.CertData = csr.Status.Certificate
		c.KeyData = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	}))
	e.must(requests.Delete(e.ctx, csr.Name, metav1.DeleteOptions{}))
}

// TestNodeAuthorizer looks through a node's eyes: it may read what its pods
// need and nothing else.
func TestNodeAuthorizer(t *testing.T) {
	e := inNamespace(t)
	e.mustKubectl("create", "secret", "generic", "used", "--from-literal=a=b")
	e.mustKubectl("create", "secret", "generic", "unused", "--from-literal=a=b")
	p := pod("user", idle("main"))
	withVolume(p, "s", "/s", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "used"}})
	e.startPod(p)
	conf := rest.CopyConfig(e.client.Config)
	conf.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + e.host.Name(), Groups: []string{"system:nodes", "system:authenticated"}}
	node, err := cluster.ClientFor(conf)
	e.must(err)
	if _, err := node.CoreV1().Secrets(e.ns).Get(e.ctx, "used", metav1.GetOptions{}); err != nil {
		t.Errorf("the node may not read a Secret of its pod: %v", err)
	}
	if _, err := node.CoreV1().Secrets(e.ns).Get(e.ctx, "unused", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a Secret of nobody's gives the node %v, want Forbidden", err)
	}
	_, err = node.CoreV1().Nodes().Create(e.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "another"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is not allowed to modify node") {
		t.Errorf("creating another node gives %v, want Forbidden", err)
	}
}
