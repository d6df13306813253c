// Package datastore_test has the long tests of the store: histories checked for linearizability while the server is
// killed or loses power, hundreds of power cuts, a day of a cluster's writes in a minute, and the contract suite over
// real servers of the external engines.
//
// They need root, loop devices, mkfs.btrfs and mkfs.ext4 (Debian: btrfs-progs, e2fsprogs), and the postgresql,
// mariadb-server and nats-server packages. They take a few minutes and use local sockets only; whatever they mount is in
// a mount namespace of their own and goes with them.
package datastore_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/tests/apart"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// envServe makes this program a store server: ENDPOINT, DIR and LISTEN separated by "|".
const envServe = "KNARR_TEST_SERVE"

func TestMain(m *testing.M) {
	if spec := os.Getenv(envServe); spec != "" {
		os.Exit(serve(spec))
	}
	os.Exit(apart.Run(m, syscall.CLONE_NEWNS, nil))
}

// serve is a store server until it is killed.
func serve(spec string) int {
	f := strings.Split(spec, "|")
	config := datastore.Config{Endpoint: f[0], Dir: f[1], Listen: f[2]}
	c := datastore.New(config, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err := c.Run(context.Background(), func() { fmt.Println("ready") }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// connect returns a client that reconnects at once and is quiet about it.
func connect(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	quick := backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(), BackoffWaitBetween: 10 * time.Millisecond,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
