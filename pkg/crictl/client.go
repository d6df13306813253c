// Package crictl is what `knarr crictl` does: it asks the container runtime of
// this node what runs, and acts on it, over the CRI.
//
// It stands in for cri-tools' crictl, with its names, columns and formats for the
// commands it has. It is not for making containers by hand: the kubelet owns them,
// and removes what it does not know. A Client lives as long as one command; Close
// ends it.
package crictl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"
)

// DefaultEndpoint is the socket of knarr's own containerd.
const DefaultEndpoint = "unix:///run/knarr/containerd/containerd.sock"

// Client is a connection to the runtime, with the streams that results go to.
type Client struct {
	runtime  internalapi.RuntimeService
	images   internalapi.ImageManagerService
	endpoint string
	out      io.Writer
	now      func() time.Time
}

// Connect connects to the runtime at endpoint (unix:///path). timeout bounds the
// connection and each call but pulling. Results go to out.
func Connect(ctx context.Context, endpoint string, timeout time.Duration, out io.Writer) (*Client, error) {
	if err := reachable(endpoint); err != nil {
		return nil, err
	}
	ctx = quiet(ctx)
	runtime, err := cri.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(timeout).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the container runtime at %s: %w", endpoint, plain(err))
	}
	images, err := cri.NewRemoteImageServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(timeout).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the image service at %s: %w", endpoint, plain(err)), runtime.Close(ctx))
	}
	return &Client{runtime: runtime, images: images, endpoint: endpoint, out: out, now: time.Now}, nil
}

// reachable finds out early, and in plain words, that nobody can answer; gRPC
// would go on trying until the time-out.
func reachable(endpoint string) error {
	address, err := url.Parse(endpoint)
	if err != nil || address.Scheme != "unix" || address.Path == "" {
		return fmt.Errorf("runtime endpoint %q: want unix:///path/of/the/socket", endpoint)
	}
	_, err = os.Stat(address.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no container runtime at %s: see `knarr status` whether knarr runs", address.Path)
	case err != nil:
		return fmt.Errorf("reach the container runtime: %w", err)
	}
	return nil
}

// Close ends the connection.
func (c *Client) Close(ctx context.Context) error {
	ctx = quiet(ctx)
	return errors.Join(c.runtime.Close(ctx), c.images.Close(ctx))
}

// quiet keeps cri-client from logging each error that it returns as well.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, logr.Discard()) }

// plain is an error without gRPC's wrapping, which says nothing to a user.
func plain(err error) error {
	var wrapping interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &wrapping) {
		return err
	}
	s := wrapping.GRPCStatus()
	if s.Code() == codes.DeadlineExceeded {
		return fmt.Errorf("no answer in time (%s)", s.Message())
	}
	return errors.New(s.Message())
}
