package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"

	"github.com/knarr-io/knarr/pkg/inprocess"
)

type genericServer = aggregatorapiserver.APIAggregator

// errNotServing is returned in-process before the handler exists and after it is gone.
var errNotServing = errors.New("kube-apiserver is not serving")

// callerKey is the context key of an in-process caller. Nothing that arrives over a connection can set it, since the
// server makes those requests' contexts itself.
type callerKey struct{}

// ClientConfig is a client configuration whose requests reach the API in-process, as user in groups. It is valid
// before the component runs: until then its requests fail. It has no rate limit: the API's own Priority and Fairness
// is the limit.
func (c *Component) ClientConfig(name string, groups ...string) *rest.Config {
	caller := &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
	return &rest.Config{
		Host: "http://kube-apiserver.in-process",
		Transport: &inprocess.Transport{
			Handler: c.currentHandler,
			Context: func(ctx context.Context) context.Context { return context.WithValue(ctx, callerKey{}, caller) },
		},
		QPS:                -1,
		DisableCompression: true,
		ContentConfig:      rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}
}

func (c *Component) currentHandler() (http.Handler, error) {
	if h := c.handler.Load(); h != nil {
		return *h, nil
	}
	return nil, errNotServing
}

// trustInProcess puts an authenticator for in-process callers before upstream's own.
func trustInProcess(info *genericapiserver.AuthenticationInfo) {
	next := info.Authenticator
	info.Authenticator = authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		if caller, ok := req.Context().Value(callerKey{}).(user.Info); ok {
			return &authenticator.Response{User: caller}, true, nil
		}
		return next.AuthenticateRequest(req)
	})
}

// shortenLoopback turns the configuration with which the apiserver calls itself, shared by its three parts, into an
// in-process one: upstream's (k8s.io/apiserver/pkg/server/config_selfclient.go:33) goes through TLS to its own port. The
// token stays, because upstream's authenticators know it.
func (c *Component) shortenLoopback(loopback *rest.Config) {
	own := c.ClientConfig(user.APIServerUser, user.SystemPrivilegedGroup)
	loopback.Host, loopback.Transport = own.Host, own.Transport
	loopback.TLSClientConfig = rest.TLSClientConfig{}
}

// get asks for path in-process as a member of system:masters and wants 200.
func (c *Component) get(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kube-apiserver.in-process"+path, nil)
	if err != nil {
		return fmt.Errorf("build request for %s: %w", path, err)
	}
	resp, err := c.ClientConfig("system:knarr", user.SystemPrivilegedGroup).Transport.RoundTrip(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, body)
	}
	return nil
}
