package join

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/token"
)

// ServerConfig is what a server's end needs.
type ServerConfig struct {
	// Keys are the server's certificates.
	Keys pki.Config
	// Tokens are the server's own.
	Tokens token.Store
	// Cluster is the answer to those who may join, but for the CA.
	Cluster Cluster
	// Client reaches the API with all rights.
	Client func() (kubernetes.Interface, error)
	// Bundle is the answer to those who may become servers.
	Bundle func(ctx context.Context) (Bundle, error)
	// Apart is set where there is no API: servers may join, agents cannot, and names of nodes are looked at by the servers
	// at which they register.
	Apart bool
	// Tunnel takes the requests of agents for PathTunnel.
	Tunnel func(w http.ResponseWriter, r *http.Request, node string) error
}

// Server answers those who join. Use [NewServer].
type Server struct {
	config ServerConfig
	log    *slog.Logger
	now    func() time.Time
}

// NewServer makes the server's end.
func NewServer(c ServerConfig, log *slog.Logger) *Server { return &Server{c, log, time.Now} }

// refusal is an error that the other end is told.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return r.reason }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// maxBody bounds what a request may carry: a signing request is under 1 KiB.
const maxBody = 64 << 10

// Front answers what is for those who join and leaves the rest to api.
func (s *Server) Front(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, prefix) || r.TLS == nil {
			api.ServeHTTP(w, r)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := s.route(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

func (s *Server) route(w http.ResponseWriter, r *http.Request) error {
	routes := map[string]func(http.ResponseWriter, *http.Request) error{
		http.MethodGet + pathCAs:          s.serveCAs,
		http.MethodGet + pathCluster:      s.serveCluster,
		http.MethodPost + pathCertificate: s.serveCertificate,
		http.MethodGet + PathTunnel:       s.serveTunnel,
		http.MethodGet + pathServer:       s.serveServer,
	}
	if serve := routes[r.Method+r.URL.Path]; serve != nil {
		return serve(w, r)
	}
	return refuse(http.StatusNotFound, "this version of knarr does not know %s %s", r.Method, r.URL.Path)
}

// fail tells the other end what is wrong, and the log what is wrong here.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var no *refusal
	if !errors.As(err, &no) {
		s.log.Warn("cannot answer an agent", "path", r.URL.Path, "from", r.RemoteAddr, "error", err)
		no = &refusal{http.StatusServiceUnavailable, err.Error()}
	} else {
		s.log.Info("refused an agent", "path", r.URL.Path, "from", r.RemoteAddr, "reason", no.reason)
	}
	body, err := json.Marshal(problem{no.reason})
	if err != nil {
		panic(err) // one string
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(no.status)
	_, _ = w.Write(body) // whoever asked has gone
}

// serveCAs gives the server CA to anybody: whoever asks compares it with the hash in the token.
func (s *Server) serveCAs(w http.ResponseWriter, _ *http.Request) error {
	bundle, err := os.ReadFile(s.config.Keys.CAPair(pki.ServerCA).Cert)
	if err != nil {
		return fmt.Errorf("read server CA: %w", err)
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(bundle) // whoever asked has gone
	return nil
}

func (s *Server) serveCluster(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.authenticate(r); err != nil {
		return err
	}
	ca, err := os.ReadFile(s.config.Keys.CAPair(pki.ClientCA).Cert)
	if err != nil {
		return fmt.Errorf("read client CA: %w", err)
	}
	c := s.config.Cluster
	c.ClientCA = ca
	return reply(w, c)
}

func (s *Server) serveCertificate(w http.ResponseWriter, r *http.Request) error {
	who, err := s.authenticate(r)
	if err != nil {
		return err
	}
	var req certificateRequest
	if err := decode(r.Body, &req); err != nil {
		return err
	}
	if who.node == "" {
		if who.node, err = s.admit(r.Context(), r.Header.Get(headerNode), r.Header.Get(headerPassword)); err != nil {
			return err
		}
	}
	if err := s.checkAddresses(r.Context(), who.node, req.IPs); err != nil {
		return err
	}
	cert, err := pki.SignNode(s.now(), s.config.Keys, who.node, req.IPs, req.Name, req.CSR)
	if errors.Is(err, pki.ErrRequest) {
		return refuse(http.StatusBadRequest, "%s", err)
	}
	if err != nil {
		return fmt.Errorf("sign %s of node %s: %w", req.Name, who.node, err)
	}
	return reply(w, certificateReply{cert})
}

func (s *Server) serveTunnel(w http.ResponseWriter, r *http.Request) error {
	who, err := s.authenticate(r)
	if err != nil {
		return err
	}
	if who.node == "" {
		return refuse(http.StatusForbidden, "a tunnel is for agents with a certificate")
	}
	return s.config.Tunnel(w, r, who.node)
}

func reply(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // whoever asked has gone
	return nil
}

func decode(r io.Reader, v any) error {
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return refuse(http.StatusBadRequest, "cannot read the request: %s", err)
	}
	return nil
}

// caller is who has been authenticated.
type caller struct {
	// node is the name in a node's certificate; empty for the holder of a token.
	node string
	// joinsServers is true for the server token.
	joinsServers bool
}

// authenticate looks at certificate and token.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	if certs := r.TLS.PeerCertificates; len(certs) > 0 {
		return s.byCertificate(certs)
	}
	if _, password, ok := r.BasicAuth(); ok {
		return s.byPassword(password)
	}
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return s.byBootstrapToken(r.Context(), bearer)
	}
	return caller{}, refuse(http.StatusUnauthorized, "no token was given")
}

// nodeUser begins the name of a node's user, and nodeGroup is its group
// (k8s.io/kubernetes/pkg/auth/nodeidentifier/default.go).
const (
	nodeUser  = "system:node:"
	nodeGroup = "system:nodes"
)

func (s *Server) byCertificate(certs []*x509.Certificate) (caller, error) {
	bundle, err := os.ReadFile(s.config.Keys.CAPair(pki.ClientCA).Cert)
	if err != nil {
		return caller{}, fmt.Errorf("read client CA: %w", err)
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	for _, c := range certs[1:] {
		others.AddCert(c)
	}
	_, err = certs[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: others, CurrentTime: s.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return caller{}, refuse(http.StatusUnauthorized, "the agent's certificate is not good: %s", err)
	}
	subject := certs[0].Subject
	node, ok := strings.CutPrefix(subject.CommonName, nodeUser)
	if !ok || len(subject.Organization) != 1 || subject.Organization[0] != nodeGroup {
		return caller{}, refuse(http.StatusForbidden, "the certificate of %s is not a node's", subject.CommonName)
	}
	return caller{node: node}, nil
}

// byPassword accepts the server's token and the agents'.
func (s *Server) byPassword(password string) (caller, error) {
	given, err := token.New("", password)
	if err != nil {
		return caller{}, refuse(http.StatusUnauthorized, "%s", err)
	}
	stored, err := s.config.Tokens.Load()
	if err != nil {
		return caller{}, err
	}
	agents, err := s.config.Tokens.LoadAgent()
	if err != nil {
		return caller{}, err
	}
	switch {
	case !stored.IsZero() && given.SameSecret(stored):
		return caller{joinsServers: true}, nil
	case !agents.IsZero() && given.SameSecret(agents):
		return caller{}, nil
	}
	return caller{}, refuse(http.StatusUnauthorized, "the token is wrong: take the one that `knarr token join-command` prints on a server, with --role server for another server")
}

// api is a client of the API, or a reason to try again later.
func (s *Server) api() (kubernetes.Interface, error) {
	client, err := s.config.Client()
	if err != nil {
		return nil, fmt.Errorf("reach the API: %w", err)
	}
	return client, nil
}

// ignoreMissing makes not found no error.
func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// requestTime bounds what one request may take of the API.
const requestTime = 5 * time.Second

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTime)
}
