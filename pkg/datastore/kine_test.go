package datastore

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// watchOf is a backend that keeps the context of its last watch.
type watchOf struct {
	server.Backend
	ctx context.Context
}

func (w *watchOf) Watch(ctx context.Context, _ int64) server.WatchResult {
	w.ctx = ctx
	return server.WatchResult{}
}

// TestWatchesEnd ends one watch, and then the component.
func TestWatchesEnd(t *testing.T) {
	component, stop := context.WithCancel(t.Context())
	engine := &watchOf{}
	b := watchedUntil{engine, component}
	client, leave := context.WithCancel(t.Context())
	b.Watch(client, 0)
	one := engine.ctx
	b.Watch(t.Context(), 0)
	other := engine.ctx
	leave()
	<-one.Done()
	if other.Err() != nil {
		t.Error("a watch has ended with another one")
	}
	stop()
	<-other.Done()
}

// broken is a backend whose watches end by themselves.
type broken struct{ server.Backend }

func (broken) Watch(context.Context, int64) server.WatchResult {
	events := make(chan server.EventBatch)
	close(events)
	return server.WatchResult{CurrentRevision: 7, Eventc: events, Errorc: make(chan error)}
}

// TestABrokenWatchBeginsAnew has etcd's client follow a watch that its server ends.
func TestABrokenWatchBeginsAnew(t *testing.T) {
	g := kineServer(t.Context(), &backend{Backend: broken{}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	defer func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, DialTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var last clientv3.WatchResponse
	for r := range client.Watch(ctx, "/a", clientv3.WithPrefix()) {
		last = r
	}
	if !errors.Is(last.Err(), rpctypes.ErrCompacted) {
		t.Errorf("the watch ends with %v, want %v", last.Err(), rpctypes.ErrCompacted)
	}
}

// sent is a stream that keeps what is sent.
type sent struct {
	grpc.ServerStream
	last any
}

func (s *sent) SendMsg(m any) error {
	s.last = m
	return nil
}

func TestWatchesThatEnd(t *testing.T) {
	header := &etcdserverpb.ResponseHeader{Revision: 9}
	for name, c := range map[string]struct {
		resp *etcdserverpb.WatchResponse
		want int64
	}{
		"by itself":             {&etcdserverpb.WatchResponse{Header: header, Canceled: true}, 9},
		"by itself, at no time": {&etcdserverpb.WatchResponse{Canceled: true}, 1},
		"compacted":             {&etcdserverpb.WatchResponse{Header: header, Canceled: true, CompactRevision: 5}, 5},
		"refused":               {&etcdserverpb.WatchResponse{Header: header, Created: true, Canceled: true}, 0},
		"not at all":            {&etcdserverpb.WatchResponse{Header: header}, 0},
	} {
		s := &sent{}
		handler := func(_ any, stream grpc.ServerStream) error { return stream.SendMsg(c.resp) }
		if err := watchesEndWell(t.Context())(nil, s, nil, handler); err != nil {
			t.Fatal(err)
		}
		if got := s.last.(*etcdserverpb.WatchResponse).CompactRevision; got != c.want {
			t.Errorf("%s: compacted at %d, want %d", name, got, c.want)
		}
	}
	over, end := context.WithCancel(t.Context())
	end()
	s := &sent{}
	handler := func(_ any, stream grpc.ServerStream) error {
		return stream.SendMsg(&etcdserverpb.WatchResponse{Canceled: true})
	}
	if err := watchesEndWell(over)(nil, s, nil, handler); err != nil || s.last != nil {
		t.Errorf("when the server ends, a client is told %v, %v", s.last, err)
	}
}

// claims is a backend that says one thing of a key and has another.
type claims struct {
	server.Backend
	rev     int64
	err     error
	kv      *server.KeyValue
	lookErr error
}

func (c claims) Create(context.Context, string, []byte, int64) (int64, error) { return c.rev, c.err }

func (c claims) Get(context.Context, string, int64, bool) (int64, *server.KeyValue, error) {
	return 20, c.kv, c.lookErr
}

func TestCreateKeepsItsWord(t *testing.T) {
	gone := errors.New("the database is gone")
	own := &server.KeyValue{CreateRevision: 12, ModRevision: 12}
	for name, c := range map[string]struct {
		claims
		want error // nil for success, gone for any that is not about the key
	}{
		"created":                        {claims{rev: 12, kv: own}, nil},
		"created and changed since":      {claims{rev: 12, kv: &server.KeyValue{CreateRevision: 12, ModRevision: 15}}, nil},
		"exists":                         {claims{err: server.ErrKeyExists, kv: own}, server.ErrKeyExists},
		"fails":                          {claims{err: gone}, gone},
		"said to be created":             {claims{rev: 12}, gone},
		"said to be created, another's":  {claims{rev: 12, kv: &server.KeyValue{CreateRevision: 11, ModRevision: 11}}, gone},
		"said to exist":                  {claims{err: server.ErrKeyExists}, gone},
		"created, and nobody can say so": {claims{rev: 12, lookErr: gone}, gone},
	} {
		_, err := verified{c.claims}.Create(t.Context(), "/a", nil, 0)
		switch {
		case c.want == gone && (err == nil || errors.Is(err, server.ErrKeyExists)), c.want != gone && !errors.Is(err, c.want):
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
