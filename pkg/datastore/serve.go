package datastore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/knarr-io/knarr/pkg/datastore/etcd"
)

const (
	// maxRequestBytes is etcd's limit for a request, 1.5 MiB, plus what gRPC adds (etcd server/embed/config.go).
	maxRequestBytes = 1536*1024 + 512*1024
	// stopGrace is how long calls under way may take to end. Watches do not end by themselves.
	stopGrace = 100 * time.Millisecond
)

// serve answers etcd calls until ctx ends or failed is closed, for the reason that cause then gives.
func (c *Component) serve(ctx context.Context, g *grpc.Server, failed <-chan struct{}, cause func() error, ready func()) error {
	listeners := []net.Listener{c.pipe.listen()}
	if c.config.Listen != "" {
		l, err := listen(c.config.Listen)
		if err != nil {
			return errors.Join(err, listeners[0].Close())
		}
		c.log.Info("datastore serves the etcd API", "listen", c.config.Listen)
		listeners = append(listeners, l)
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error {
			if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				return fmt.Errorf("serve etcd API on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		var err error
		select {
		case <-gctx.Done():
		case <-failed:
			err = cause()
		}
		t := time.AfterFunc(stopGrace, g.Stop)
		defer t.Stop()
		g.GracefulStop()
		return err
	})
	ready()
	return group.Wait()
}

// serverOptions repeats those of etcd's own server as kine does (kine v0.17.5 pkg/endpoint/endpoint.go:235-250).
func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.MaxSendMsgSize(math.MaxInt32),
		// The apiserver makes about a hundred connections: without this each holds 32 KiB more.
		grpc.ReadBufferSize(4096),
	}
}

func listen(address string) (net.Listener, error) {
	network, addr, ok := strings.Cut(address, "://")
	if !ok || (network != "unix" && network != "tcp") {
		return nil, fmt.Errorf("datastore listen address %q: use unix:///PATH or tcp://HOST:PORT", address)
	}
	if err := loopback(network, addr); err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := os.Remove(addr); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove old datastore socket: %w", err)
		}
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen for etcd clients: %w", err)
	}
	if network == "unix" {
		if err := os.Chmod(addr, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("protect datastore socket: %w", err), l.Close())
		}
	}
	return l, nil
}

// runExternalEtcd waits until the cluster answers, then until ctx ends.
func (c *Component) runExternalEtcd(ctx context.Context, ready func()) error {
	for {
		_, err := c.externalStatus(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		c.log.Warn("external etcd does not answer yet", "endpoint", redact(c.config.Endpoint), "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	ready()
	<-ctx.Done()
	return nil
}

func (c *Component) externalStatus(ctx context.Context) (Status, error) {
	cl, err := c.Access().client()
	if err != nil {
		return Status{}, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, externalPatience)
	defer cancel()
	r, err := anyStatus(ctx, cl)
	if err != nil {
		return Status{}, fmt.Errorf("ask etcd for its status: %w", err)
	}
	st := Status{Engine: engineEtcd, Revision: r.Header.Revision, DiskBytes: r.DbSize}
	if c.config.Apart {
		if st.Members, err = etcd.Members(ctx, cl); err != nil {
			return st, err
		}
		for i, m := range st.Members {
			st.Members[i].Leader = m.ID == r.Leader
		}
	}
	return st, nil
}

// externalPatience is how long the members of an external etcd may take, all together, to say how they are.
const externalPatience = 5 * time.Second

// anyStatus is what the first member says that answers: some of a cluster may be down.
func anyStatus(ctx context.Context, cl *clientv3.Client) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		status *clientv3.StatusResponse
		err    error
	}
	answers := make(chan answer, len(cl.Endpoints()))
	for _, endpoint := range cl.Endpoints() {
		go func() { // ends with ctx
			r, err := cl.Status(ctx, endpoint)
			answers <- answer{r, err}
		}()
	}
	var errs []error
	var first *clientv3.StatusResponse
	for range cl.Endpoints() { // all of them, so that none of the goroutines is left behind
		a := <-answers
		switch {
		case a.err != nil:
			errs = append(errs, a.err)
		case first == nil:
			first = a.status
			cancel()
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, errors.Join(errs...)
}

// tls loads the files for a connection; nil when there are none.
func (a Access) tls() (*tls.Config, error) {
	if a.CAFile == "" && a.CertFile == "" {
		return nil, nil
	}
	info := transport.TLSInfo{TrustedCAFile: a.CAFile, CertFile: a.CertFile, KeyFile: a.KeyFile}
	t, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("load datastore TLS files: %w", err)
	}
	return t, nil
}

// loopback refuses to serve where others could connect: the listener asks for no credentials.
func loopback(network, addr string) error {
	if network == "unix" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("datastore listen address: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("datastore listen address %s: only loopback addresses can be served, since clients are not "+
			"asked who they are; use 127.0.0.1", addr)
	}
	return nil
}
