package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/knarr-io/knarr/pkg/retry"
	"github.com/knarr-io/knarr/pkg/token"
)

const (
	// askTimeout bounds one request.
	askTimeout = 5 * time.Second
	// maxReply bounds what a server may answer.
	maxReply = 4 << 20
	// maxSkew is by how much the clocks may differ when a machine joins: bootstrap tokens expire, and certificates begin,
	// by the server's clock.
	maxSkew = 5 * time.Minute
)

// Client is the agent's end. The zero value is not useful: URL and Token are needed to join, CA and Certificate after.
type Client struct {
	// URL is the server's, https://HOST:PORT.
	URL *url.URL
	// Token is shown where there is no Certificate.
	Token token.Token
	// Node and Password are the node's name and the password that proves it.
	Node     string
	Password string
	// CA is the bundle that the server's certificate must lead to. See [Client.Discover].
	CA []byte
	// Certificate, when not nil, is the node's own.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Dial replaces the network's; nil: the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Patiently tries again while a server cannot be reached or is not ready, until ctx ends. A refusal is final.
func Patiently(ctx context.Context, what string, try func(context.Context) error) error {
	var last error
	err := retry.Until(ctx, what, retry.Backoff{First: 100 * time.Millisecond, Max: time.Second}, func(ctx context.Context) (bool, error) {
		err := try(ctx)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return err == nil || !errors.As(err, new(laterError)), err
	})
	if err != nil && ctx.Err() != nil && last != nil {
		return last // it says what is wrong; that time has passed is no news
	}
	return err
}

// laterError marks what may be otherwise in a moment.
type laterError struct{ error }

func (e laterError) Unwrap() error { return e.error }

// later makes an error that is marked.
func later(format string, args ...any) error { return laterError{fmt.Errorf(format, args...)} }

// Discover fetches the cluster's CA from whoever answers and compares it with the hash in the token. Nothing secret is
// sent. pinned is false when the token has no hash: then whoever answered is trusted.
func (c *Client) Discover(ctx context.Context) (pinned bool, err error) {
	// Whoever answers is not known yet; the hash in the token decides about what it says.
	bundle, date, err := c.get(ctx, &tls.Config{InsecureSkipVerify: true}, pathCAs)
	if err != nil {
		return false, err
	}
	if bundle, err = c.Token.VerifyCA(bundle); err != nil {
		return false, fmt.Errorf("server %s: %w", c.URL.Host, err)
	}
	if skew := time.Since(date); !date.IsZero() && skew.Abs() > maxSkew {
		return false, fmt.Errorf("%w: here it is %s, at %s %s; set the clock that is wrong, for example with NTP", ErrClock,
			time.Now().UTC().Format(time.DateTime), c.URL.Host, date.UTC().Format(time.DateTime))
	}
	c.CA = bundle
	return c.Token.CAHash() != "", nil
}

// Cluster fetches what members have to know.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	config, err := c.tls()
	if err != nil {
		return Cluster{}, err
	}
	body, _, err := c.get(ctx, config, pathCluster)
	if err != nil {
		return Cluster{}, err
	}
	var cluster Cluster
	if err := json.Unmarshal(body, &cluster); err != nil {
		return Cluster{}, fmt.Errorf("server %s: read its settings: %w", c.URL.Host, err)
	}
	return cluster, nil
}

// Sign has the node's certificate called name signed; see pki.RemoteSigner. ips are the node's addresses.
func (c *Client) Sign(ctx context.Context, ips []netip.Addr, name string, csr []byte) ([]byte, error) {
	config, err := c.tls()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(certificateRequest{Name: name, CSR: csr, IPs: ips})
	if err != nil {
		return nil, fmt.Errorf("encode the request for certificate %s: %w", name, err)
	}
	answer, _, err := c.do(ctx, config, http.MethodPost, pathCertificate, body)
	if err != nil {
		return nil, err
	}
	var r certificateReply
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("server %s: read certificate %s: %w", c.URL.Host, name, err)
	}
	return r.Certificate, nil
}

// tls trusts the cluster's CA alone.
func (c *Client) tls() (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.CA) {
		return nil, errors.New("the cluster's CA is not known yet")
	}
	return &tls.Config{RootCAs: pool, GetClientCertificate: c.Certificate, MinVersion: tls.VersionTLS12}, nil
}

func (c *Client) get(ctx context.Context, config *tls.Config, path string) (body []byte, date time.Time, err error) {
	return c.do(ctx, config, http.MethodGet, path, nil)
}

func (c *Client) do(ctx context.Context, config *tls.Config, method, path string, send []byte) (body []byte, date time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, DialContext: c.Dial}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, c.URL.String()+path, bytes.NewReader(send))
	if err != nil {
		return nil, date, fmt.Errorf("ask %s: %w", c.URL.Host, err)
	}
	if path != pathCAs { // which is asked before the server is known
		c.identify(req)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, date, c.explain(err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or of no use
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, date, c.explain(err)
	}
	if d, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		date = d
	}
	return body, date, c.refused(resp.StatusCode, body)
}

func (c *Client) identify(req *http.Request) {
	req.Header.Set(headerNode, c.Node)
	if c.Certificate != nil {
		return
	}
	req.Header.Set(headerPassword, c.Password)
	if bearer := c.Token.Bearer(); bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
		return
	}
	user := c.Token.User()
	if user == "" {
		user = token.UserNode
	}
	req.SetBasicAuth(user, c.Token.Password())
}

// refused turns an answer other than 200 into an error.
func (c *Client) refused(status int, body []byte) error {
	if status == http.StatusOK {
		return nil
	}
	var p problem
	if err := json.Unmarshal(body, &p); err != nil || p.Error == "" {
		p.Error = fmt.Sprintf("it answers %d to what only a knarr server knows: is %s its port?", status, c.URL.Host)
	}
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		return later("server %s: %s", c.URL.Host, p.Error)
	}
	return fmt.Errorf("%w (%s): %s", ErrRefused, c.URL.Host, p.Error)
}

// explain says what an error of the network or of TLS means.
func (c *Client) explain(err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var notTLS tls.RecordHeaderError
	var dns *net.DNSError
	host := c.URL.Host
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: the certificate of %s is valid from %s to %s, and here it is %s; set the clock that is wrong, for example with NTP", ErrClock,
			host, invalid.Cert.NotBefore.UTC().Format(time.DateTime), invalid.Cert.NotAfter.UTC().Format(time.DateTime), time.Now().UTC().Format(time.DateTime))
	case errors.As(err, &unknown), errors.As(err, &invalid):
		return fmt.Errorf("server %s is not of the cluster that this node belongs to: its certificate is signed by another CA (%w)", host, err)
	case errors.As(err, &name):
		return fmt.Errorf("server %s: its certificate is not valid for this name: %w; start the server with --tls-san %s, or use one of these names", host, err, c.URL.Hostname())
	case errors.As(err, &notTLS):
		return fmt.Errorf("%s does not speak TLS: is it the port of a knarr server?", host)
	case errors.As(err, &dns) && dns.IsNotFound:
		return later("there is no host %s: %w", dns.Name, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return later("nothing listens at %s: is the server running?", host)
	case errors.Is(err, context.DeadlineExceeded):
		return later("cannot reach the server at %s: no answer in time; is it running, and does no firewall stand between?", host)
	default:
		return later("cannot reach the server at %s: %w; is it running, and does no firewall stand between?", host, err)
	}
}
