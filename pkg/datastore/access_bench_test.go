package datastore

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// BenchmarkInProcess is what a call costs between the apiserver and the store in one process.
func BenchmarkInProcess(b *testing.B) {
	client := startIn(b, New(Config{Dir: b.TempDir()}, slog.New(slog.DiscardHandler)))
	for i := range 1000 {
		if _, err := client.Put(b.Context(), fmt.Sprintf("/registry/pods/%04d", i), string(make([]byte, 1500))); err != nil {
			b.Fatal(err)
		}
	}
	var n atomic.Int64
	for name, f := range map[string]func() error{
		"get": func() error {
			_, err := client.Get(b.Context(), fmt.Sprintf("/registry/pods/%04d", n.Add(1)%1000))
			return err
		},
		"list500": func() error {
			_, err := client.Get(b.Context(), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithLimit(500))
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := f(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
