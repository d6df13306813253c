package helm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"helm.sh/helm/v4/pkg/registry"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// noFile is where Helm's registry client would look for credentials of the host's user: there shall be none.
const noFile = "/nonexistent/helm-credentials"

// userAgent is what servers of charts see.
const userAgent = "knarr Helm/4"

// access is whom to trust and what to show them at a download.
type access struct {
	username, password string
	passAll            bool   // to any host that a repository's index names
	dockerConfig       []byte // for oci://; nil: username and password
	ca                 []byte // PEM; trusted beside the host's
	insecure           bool   // any certificate will do
	plainHTTP          bool   // for oci://

	// What registries.yaml may add, for oci://.
	refreshToken string
	certificates []tls.Certificate
	// mirror, when not nil, is the root of the API that is asked in place of the registry mirrored.
	mirror   *url.URL
	mirrored string
}

// accessOf reads what a HelmChart's spec refers to in its namespace.
func accessOf(ctx context.Context, client kubernetes.Interface, namespace string, s ChartSpec) (access, error) {
	a := access{passAll: s.AuthPassCredentials, insecure: s.InsecureSkipTLSVerify, plainHTTP: s.PlainHTTP, ca: []byte(s.RepoCA)}
	if s.AuthSecret != nil {
		secret, err := client.CoreV1().Secrets(namespace).Get(ctx, s.AuthSecret.Name, metav1.GetOptions{})
		if err != nil {
			return a, fmt.Errorf("read spec.authSecret: %w", err)
		}
		a.username, a.password = string(secret.Data[corev1.BasicAuthUsernameKey]), string(secret.Data[corev1.BasicAuthPasswordKey])
		if a.username == "" {
			return a, fmt.Errorf("read spec.authSecret: the Secret %s has no key %q", secret.Name, corev1.BasicAuthUsernameKey)
		}
	}
	if s.DockerRegistrySecret != nil {
		secret, err := client.CoreV1().Secrets(namespace).Get(ctx, s.DockerRegistrySecret.Name, metav1.GetOptions{})
		if err != nil {
			return a, fmt.Errorf("read spec.dockerRegistrySecret: %w", err)
		}
		if a.dockerConfig = secret.Data[corev1.DockerConfigJsonKey]; a.dockerConfig == nil {
			return a, fmt.Errorf("read spec.dockerRegistrySecret: the Secret %s has no key %q", secret.Name, corev1.DockerConfigJsonKey)
		}
	}
	if s.RepoCAConfigMap != nil {
		more, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, s.RepoCAConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return a, fmt.Errorf("read spec.repoCAConfigMap: %w", err)
		}
		for _, text := range more.Data {
			a.ca = append(append(a.ca, '\n'), text...)
		}
	}
	return a, nil
}

// client makes an HTTP client whose requests end with ctx: Helm's library gives its own none.
func (a access) client(ctx context.Context) (*http.Client, error) {
	tlsConfig := &tls.Config{InsecureSkipVerify: a.insecure, MinVersion: tls.VersionTLS12, Certificates: a.certificates} //nolint:gosec // the user's wish
	if len(a.ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil { // a host without any
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(a.ca) {
			return nil, permanent{errors.New("read spec.repoCA and spec.repoCAConfigMap: there is no certificate in PEM")}
		}
		tlsConfig.RootCAs = pool
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       tlsConfig,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: time.Minute,
	}
	if a.mirror != nil {
		return &http.Client{Transport: bound{ctx, rerouted{a.mirrored, a.mirror, transport}}}, nil
	}
	return &http.Client{Transport: bound{ctx, transport}}, nil
}

// registry makes a client for OCI registries; done frees what it holds.
func (a access) registry(ctx context.Context) (client *registry.Client, done func(), err error) {
	web, err := a.client(ctx)
	if err != nil {
		return nil, nil, err
	}
	authorizer := auth.Client{Client: web, Cache: auth.NewCache(), Header: http.Header{"User-Agent": {userAgent}}}
	switch {
	case a.dockerConfig != nil:
		store, err := credentials.NewMemoryStoreFromDockerConfig(a.dockerConfig)
		if err != nil {
			return nil, nil, permanent{fmt.Errorf("read spec.dockerRegistrySecret: %w", err)}
		}
		authorizer.Credential = credentials.Credential(store)
	case a.username != "" || a.refreshToken != "":
		authorizer.Credential = func(context.Context, string) (auth.Credential, error) {
			return auth.Credential{Username: a.username, Password: a.password, RefreshToken: a.refreshToken}, nil
		}
	}
	options := []registry.ClientOption{
		registry.ClientOptHTTPClient(web),
		registry.ClientOptAuthorizer(authorizer),
		registry.ClientOptCredentialsFile(noFile),
	}
	if a.plainHTTP {
		options = append(options, registry.ClientOptPlainHTTP())
	}
	client, err = registry.NewClient(options...)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client for the registry: %w", err)
	}
	return client, web.CloseIdleConnections, nil
}

// bound is a transport whose requests end with ctx at the latest, and fail afterwards. It is how Helm's library, which
// passes contexts of its own, is made to stop.
type bound struct {
	ctx  context.Context //nolint:containedctx // that is what it is for
	next http.RoundTripper
}

// RoundTrip passes the request on.
func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := b.ctx.Err(); err != nil {
		return nil, context.Cause(b.ctx)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	resp, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		stop()
		cancel(nil)
		return nil, err
	}
	resp.Body = &body{resp.Body, func() { stop(); cancel(nil) }}
	return resp, nil
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (b bound) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// body frees what its request holds when it is closed.
type body struct {
	io.ReadCloser
	free func()
}

// Close closes the body.
func (b *body) Close() error {
	defer b.free()
	return b.ReadCloser.Close()
}
