package host

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, t := range texts {
		list = append(list, netip.MustParseAddr(t))
	}
	return list
}

func TestMoved(t *testing.T) {
	both := func(a []netip.Addr) []netip.Addr { return a }
	four := func(a []netip.Addr) []netip.Addr { return a[:1] }
	const old, fresh, v6, fresh6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
	for name, tt := range map[string]struct {
		have, found, there []netip.Addr
		pick               func([]netip.Addr) []netip.Addr
		want               []netip.Addr
	}{
		"nothing changed":                {addrs(old), addrs(old), addrs("127.0.0.1", old), four, nil},
		"another address":                {addrs(old), addrs(fresh), addrs("127.0.0.1", fresh), four, addrs(fresh)},
		"one beside it":                  {addrs(old), addrs(fresh), addrs(fresh, old), four, nil},
		"none left":                      {addrs(old), nil, addrs("127.0.0.1"), four, nil},
		"a family that does not count":   {addrs(old), addrs(old, v6), addrs(old, v6), four, nil},
		"a family that was missing":      {addrs(old), addrs(old, v6), addrs(old, v6), both, addrs(old, v6)},
		"one of two, the other is gone":  {addrs(old, v6), addrs(fresh), addrs(fresh), both, nil},
		"one of two, the other stays":    {addrs(old, v6), addrs(old, fresh6), addrs(old, fresh6), both, addrs(old, fresh6)},
		"the only one of a family, gone": {addrs(old, v6), addrs(old), addrs(old), both, nil},
	} {
		f := Follow(tt.have, tt.pick, slog.New(slog.DiscardHandler))
		f.find = func() ([]netip.Addr, error) {
			if tt.found == nil {
				return nil, ErrNoAddress
			}
			return tt.found, nil
		}
		f.present = func() ([]netip.Addr, error) { return tt.there, nil }
		got, err := f.moved()
		if err != nil || joined(got) != joined(tt.want) {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, tt.want)
		}
	}
}

// An address that is gone for less than it takes to settle has not changed.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		have := addrs("192.0.2.1")
		var now atomic.Pointer[[]netip.Addr]
		now.Store(&have)
		change := make(chan []netip.Addr)
		f := Follow(have, func(a []netip.Addr) []netip.Addr { return a }, slog.New(slog.DiscardHandler))
		f.find = func() ([]netip.Addr, error) {
			if len(*now.Load()) == 0 {
				return nil, ErrNoAddress
			}
			return *now.Load(), nil
		}
		f.present = func() ([]netip.Addr, error) { return *now.Load(), nil }
		f.watch = func(ctx context.Context, changed func()) error {
			for {
				select {
				case a := <-change:
					now.Store(&a)
					changed()
				case <-ctx.Done():
					return nil
				}
			}
		}
		done := make(chan error, 1)
		go func() { done <- f.Run(t.Context(), func() {}) }()
		for _, a := range [][]netip.Addr{nil, addrs("192.0.2.1"), addrs("192.0.2.2"), addrs("192.0.2.1"), nil} {
			change <- a
			time.Sleep(settle / 2)
		}
		time.Sleep(10 * settle)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("ended with %v", err)
		default:
		}
		change <- addrs("192.0.2.3")
		again := new(lifecycle.Restart)
		if err := <-done; !errors.As(err, &again) || again.Reason != "this host's address was 192.0.2.1 and is 192.0.2.3" {
			t.Errorf("got %v", err)
		}
	})
}

// A host on which something changes all the time is looked at all the same.
func TestSettledInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		restless := func(ctx context.Context, changed func()) error {
			tick := time.NewTicker(settle / 2)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					changed()
				case <-ctx.Done():
					return nil
				}
			}
		}
		began, looks := time.Now(), 0
		enough := errors.New("enough")
		err := Settled(t.Context(), restless, func() error {
			if looks++; looks == 3 {
				return enough
			}
			return nil
		})
		if took := time.Since(began); !errors.Is(err, enough) || took < 2*unsettled || took > 4*unsettled {
			t.Errorf("three looks took %v, %v", took, err)
		}
	})
}
