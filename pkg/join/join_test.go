package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/retry"
	"github.com/knarr-io/knarr/pkg/token"
)

// rig is a server's end with real certificates, in front of an API that is not there.
type rig struct {
	server *Server
	http   *httptest.Server
	api    *fake.Clientset
	keys   pki.Config
	tokens token.Stored
	// date, when not zero, is what the server says that the time is.
	date time.Time
}

func newRig(t *testing.T, objects ...*corev1.Node) *rig {
	t.Helper()
	r := &rig{api: fake.NewClientset()}
	for _, n := range objects {
		if _, err := r.api.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r.keys = pki.Config{
		DataDir: t.TempDir(), NodeName: "lead", ClusterDomain: "cluster.local", ServerURL: "https://127.0.0.1:6443",
		AdvertiseAddress: netip.MustParseAddr("192.0.2.1"), ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
	}
	if _, err := pki.Ensure(time.Now(), r.keys); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(r.keys.CAPair(pki.ServerCA).Cert)
	if err != nil {
		t.Fatal(err)
	}
	store := token.Store{ServerDir: t.TempDir()}
	agents, err := token.New("", "for-agents")
	if err != nil {
		t.Fatal(err)
	}
	if r.tokens, err = store.Ensure(token.Given{Agent: agents}, ca); err != nil {
		t.Fatal(err)
	}
	r.server = NewServer(ServerConfig{
		Keys: r.keys, Tokens: store, Client: func() (kubernetes.Interface, error) { return r.api, nil },
		Cluster: Cluster{Version: "v1", Settings: []Setting{{"cluster-domain", "cluster.local"}}},
		Tunnel: func(w http.ResponseWriter, _ *http.Request, node string) error {
			_, err := w.Write([]byte("tunnel of " + node))
			return err
		},
	}, slog.New(slog.DiscardHandler))
	r.serve(t)
	return r
}

func (r *rig) serve(t *testing.T) {
	t.Helper()
	pair := r.keys.LeafPair(pki.APIServerServing)
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	front := r.server.Front(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("the API")) }))
	r.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !r.date.IsZero() {
			w.Header().Set("Date", r.date.UTC().Format(http.TimeFormat))
		}
		front.ServeHTTP(w, req)
	}))
	r.http.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}
	r.http.StartTLS()
	t.Cleanup(r.http.Close)
}

// client is a machine with a token that wants to be node.
func (r *rig) client(t *testing.T, text, node string) *Client {
	t.Helper()
	tok, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.http.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &Client{URL: u, Token: tok, Node: node, Password: "password of " + node}
}

// enter is what an agent does, and its pki.Config afterwards.
func enter(t *testing.T, c *Client) (pki.Config, error) {
	t.Helper()
	if _, err := c.Discover(t.Context()); err != nil {
		return pki.Config{}, err
	}
	cluster, err := c.Cluster(t.Context())
	if err != nil {
		return pki.Config{}, err
	}
	keys := pki.Config{DataDir: t.TempDir(), Joined: true, NodeName: c.Node, NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, ClusterDomain: "cluster.local", ServerURL: "https://127.0.0.1:6444"}
	_, err = pki.EnsureJoined(t.Context(), time.Now(), keys, pki.JoinedCAs{Server: c.CA, Client: cluster.ClientCA},
		func(ctx context.Context, name string, csr []byte) ([]byte, error) {
			return c.Sign(ctx, keys.NodeIPs, name, csr)
		})
	return keys, err
}

func TestTokensThatJoin(t *testing.T) {
	r := newRig(t)
	boot := token.GenerateBootstrap()
	if err := CreateBootstrap(t.Context(), r.api, Bootstrap{Token: boot, Expires: time.Now().Add(time.Hour), Usages: Usages(), Groups: []string{NodeGroup}}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"server": r.tokens.Server.Reveal(), "agent": r.tokens.Agent.Reveal(), "short": "for-agents",
		"short with user": "node:for-agents", "bootstrap": boot.Reveal(),
	} {
		keys, err := enter(t, r.client(t, text, strings.ReplaceAll(name, " ", "-")))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// The certificate now does what the token did.
		pair := keys.LeafPair(pki.KubeletClient)
		member := r.client(t, "nonsense", "")
		if member.CA, err = os.ReadFile(keys.AgentCA(pki.ServerCA)); err != nil {
			t.Fatal(err)
		}
		member.Certificate = pki.NewReloadingCertificate(pair).GetClientCertificate
		if c, err := member.Cluster(t.Context()); err != nil || len(c.Settings) != 1 {
			t.Errorf("%s: with its certificate: %v, %v", name, c, err)
		}
	}
}

func TestTokensThatDoNot(t *testing.T) {
	r := newRig(t)
	create := func(change func(*Bootstrap)) string {
		b := Bootstrap{Token: token.GenerateBootstrap(), Expires: time.Now().Add(time.Hour), Usages: Usages(), Groups: []string{NodeGroup}}
		change(&b)
		if err := CreateBootstrap(t.Context(), r.api, b); err != nil {
			t.Fatal(err)
		}
		return b.Token.Reveal()
	}
	good := create(func(*Bootstrap) {})
	for name, c := range map[string]struct{ token, want string }{
		"wrong":              {"nonsense", "the token is wrong"},
		"another secret":     {good[:7] + strings.Repeat("a", 16), "not one of this cluster"},
		"unknown":            {token.GenerateBootstrap().Reveal(), "not one of this cluster"},
		"expired":            {create(func(b *Bootstrap) { b.Expires = time.Now().Add(-time.Second) }), "expired at"},
		"for signing only":   {create(func(b *Bootstrap) { b.Usages = []string{"signing"} }), "is not for authentication"},
		"of another group":   {create(func(b *Bootstrap) { b.Groups = []string{"system:bootstrappers:other"} }), "does not join agents"},
		"of another cluster": {"K10" + strings.Repeat("0", 64) + "::node:for-agents", "belongs to another cluster"},
	} {
		_, err := enter(t, r.client(t, c.token, "n1"))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q", name, err, c.want)
		}
	}
	if secrets, err := r.api.CoreV1().Secrets(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{}); err != nil || len(secrets.Items) != 4 {
		t.Errorf("%d secrets, %v: those refused left something behind", len(secrets.Items), err)
	}
}

// TestNothingSecretBeforeTheHash lets an impostor answer, and looks at what it is told.
func TestNothingSecretBeforeTheHash(t *testing.T) {
	r := newRig(t)
	impostor := newRig(t)
	var seen []string
	spy := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen = append(seen, req.URL.Path)
		for name := range req.Header {
			if strings.Contains(name, "Authorization") || strings.HasPrefix(name, "Knarr-") {
				t.Errorf("%s carries %s", req.URL.Path, name)
			}
		}
		impostor.server.Front(http.NotFoundHandler()).ServeHTTP(w, req)
	}))
	spy.TLS = impostor.http.TLS
	spy.StartTLS()
	defer spy.Close()
	c := r.client(t, r.tokens.Agent.Reveal(), "n1")
	c.URL, _ = url.Parse(spy.URL)
	if _, err := enter(t, c); !errors.Is(err, token.ErrForeignCA) {
		t.Errorf("got %v", err)
	}
	if len(seen) != 1 {
		t.Errorf("the impostor was asked for %v", seen)
	}
}

func TestClocks(t *testing.T) {
	r := newRig(t)
	for skew, wrong := range map[time.Duration]bool{0: false, time.Minute: false, time.Hour: true, -time.Hour: true} {
		r.date = time.Now().Add(skew)
		pinned, err := r.client(t, r.tokens.Agent.Reveal(), "n1").Discover(t.Context())
		if errors.Is(err, ErrClock) != wrong || err == nil && !pinned {
			t.Errorf("%v: %v", skew, err)
		}
	}
	c := r.client(t, "x", "n1")
	leaf := &x509.Certificate{NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}
	if err := c.explain(x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired}); !errors.Is(err, ErrClock) {
		t.Errorf("a certificate of the future: %v", err)
	}
}

func readyNode(name, ip string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
}

func TestWhoMayBeWhichNode(t *testing.T) {
	r := newRig(t, readyNode("lead", "192.0.2.1"))
	now := time.Now()
	r.server.now = func() time.Time { return now }
	sign := func(node, password string) error {
		c := r.client(t, "for-agents", node)
		c.Password = password
		_, err := enter(t, c)
		return err
	}
	refused := func(node, password, want string) {
		t.Helper()
		if err := sign(node, password); err == nil || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s with %s: %v, want %q", node, password, err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused("lead", "a", "Ready, 192.0.2.1")
	must(sign("n1", "a"))
	must(sign("n1", "a"))
	refused("n1", "b", "it has just joined")
	_, err := r.api.CoreV1().Nodes().Create(t.Context(), readyNode("n1", "192.0.2.77"), metav1.CreateOptions{})
	must(err)
	now = now.Add(registering + time.Hour)
	refused("n1", "b", "knarr token allow-node n1")
	must(AllowNode(t.Context(), r.api, "n1", now))
	must(sign("n1", "b"))
	refused("n1", "a", "knarr token allow-node n1")
	refused("n1", "c", "knarr token allow-node n1") // one allowance, one machine
	must(AllowNode(t.Context(), r.api, "n1", now))
	now = now.Add(AllowFor + time.Second)
	refused("n1", "c", "knarr token allow-node n1")
	must(r.api.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}))
	must(sign("n1", "c"))
	must(AllowNode(t.Context(), r.api, "lead", now)) // which has no password yet
	must(sign("lead2", "a"))
	refused("UPPER", "a", "node name")
	refused("n9", "", "no node password")
}

func TestAddressesOfOthers(t *testing.T) {
	r := newRig(t, readyNode("n2", "192.0.2.77"))
	if _, err := enter(t, r.client(t, "for-agents", "n1")); err == nil || !strings.Contains(err.Error(), `that of node "n2"`) {
		t.Errorf("got %v", err)
	}
}

// TestTheAPIIsLeftAlone asks for what is not for those who join.
func TestTheAPIIsLeftAlone(t *testing.T) {
	r := newRig(t)
	for path, want := range map[string]string{"/api": "the API", "/v1-knarr/nonsense": "does not know GET /v1-knarr/nonsense", pathCluster: "the token is wrong", PathTunnel: "the token is wrong"} {
		c := r.client(t, "x", "")
		body, _, err := c.get(t.Context(), &tls.Config{InsecureSkipVerify: true}, path)
		if err != nil {
			body = []byte(err.Error())
		}
		if !strings.Contains(string(body), want) {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	r := newRig(t)
	c := r.client(t, "for-agents", "n1")
	r.http.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	tries := 0
	err := Patiently(ctx, "a server", func(ctx context.Context) error {
		tries++
		_, err := c.Discover(ctx)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "nothing listens at") || tries < 2 {
		t.Errorf("%d tries: %v", tries, err)
	}
	if err := c.explain(context.DeadlineExceeded); !errors.As(err, new(laterError)) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("without an answer: %v", err)
	}
}

func TestTheServerIsStarting(t *testing.T) {
	r := newRig(t)
	tries := 0
	r.server.config.Client = func() (kubernetes.Interface, error) {
		if tries++; tries < 3 {
			return nil, errors.New("the server is starting")
		}
		return r.api, nil
	}
	c := r.client(t, token.GenerateBootstrap().Reveal(), "n1")
	err := Patiently(t.Context(), "a server", func(ctx context.Context) error {
		if _, err := c.Discover(ctx); err != nil {
			return err
		}
		_, err := c.Cluster(ctx)
		return err
	})
	if !errors.Is(err, ErrRefused) || tries != 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}

func TestDifferences(t *testing.T) {
	got := Differences([]Setting{{"a", "1"}, {"b", "2"}, {"c", "3"}}, []Setting{{"a", "1"}, {"b", "9"}})
	if len(got) != 1 || got[0] != `--b is "2" here and "9" in the cluster` {
		t.Errorf("got %q", got)
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	s := State{File: dir + "/agent/cluster.json", PasswordFile: dir + "/etc/node/password"}
	if c, err := s.Load(); c != nil || err != nil {
		t.Errorf("got %v, %v", c, err)
	}
	first, err := s.Password()
	if err != nil || len(first) != 32 {
		t.Fatalf("password %q, %v", first, err)
	}
	if again, err := s.Password(); err != nil || again != first {
		t.Errorf("the password changed, %v", err)
	}
	want := Cluster{Version: "v1", Servers: []string{"192.0.2.1:6443"}, ClientCA: []byte("pem")}
	if err := s.Store(want); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Load(); err != nil || c.Servers[0] != want.Servers[0] || string(c.ClientCA) != "pem" {
		t.Errorf("got %v, %v", c, err)
	}
	if err := os.WriteFile(s.File, []byte("{ torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Load(); c != nil || err != nil {
		t.Errorf("of a torn file: %v, %v", c, err)
	}
}

func TestSweeper(t *testing.T) {
	now := time.Now()
	made := func(name, annotation string, at time.Time) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name + secretSuffix, Namespace: metav1.NamespaceSystem, Annotations: map[string]string{annotation: at.UTC().Format(time.RFC3339)}},
			Type:       secretType,
		}
	}
	api := fake.NewClientset(readyNode("stays", "192.0.2.1"), readyNode("leaves", "192.0.2.2"),
		made("stays", joinedAt, now.Add(-time.Hour)), made("leaves", joinedAt, now.Add(-time.Hour)), made("gone", joinedAt, now.Add(-time.Hour)),
		made("joining", joinedAt, now.Add(-time.Second)), made("allowed", allowedUntil, now.Add(time.Minute)))
	factory := informers.NewSharedInformerFactory(api, 0)
	s := NewSweeper(func() (kubernetes.Interface, error) { return api, nil }, func() informers.SharedInformerFactory { return factory }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() {}) }()
	left := func(want ...string) {
		t.Helper()
		err := retry.Until(t.Context(), "the secrets", retry.Backoff{}, func(ctx context.Context) (bool, error) {
			list, err := api.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
			if err != nil {
				return true, err
			}
			var names []string
			for _, s := range list.Items {
				names = append(names, strings.TrimSuffix(s.Name, secretSuffix))
			}
			slices.Sort(names)
			return slices.Equal(names, want), nil
		})
		if err != nil {
			t.Fatalf("want %v: %v", want, err)
		}
	}
	left("allowed", "joining", "leaves", "stays")
	if err := api.CoreV1().Nodes().Delete(t.Context(), "leaves", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	left("allowed", "joining", "stays")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
