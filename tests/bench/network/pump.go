package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// The first byte of a connection says what it is for.
const (
	forBytes  = 'b' // everything after it is counted
	forTrips  = 't' // every byte after it is sent back
	chunk     = 128 << 10
	warmUp    = time.Second // of a stream, which does not count
	roundTrip = 2 * time.Second
)

// serve receives what send sends, until it is ended.
func serve(ctx context.Context, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := receive(c); err != nil {
				fmt.Println("receive:", err)
			}
		}()
	}
}

func receive(c net.Conn) error {
	var kind [1]byte
	if _, err := io.ReadFull(c, kind[:]); err != nil {
		return err
	}
	if kind[0] == forTrips {
		_, err := io.Copy(c, c)
		return err
	}
	b := make([]byte, chunk)
	for {
		if _, err := c.Read(b); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// send prints how many bits a second one TCP stream carries, and the median time of a byte to the other end and back, in
// microseconds.
func send(ctx context.Context, address string, span time.Duration) error {
	bits, err := throughput(ctx, address, span)
	if err != nil {
		return err
	}
	trip, err := latency(ctx, address)
	if err != nil {
		return err
	}
	fmt.Printf("%.0f %.1f\n", bits, float64(trip.Nanoseconds())/1e3)
	return nil
}

func dial(ctx context.Context, address string, kind byte) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{kind}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func throughput(ctx context.Context, address string, span time.Duration) (float64, error) {
	c, err := dial(ctx, address, forBytes)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := make([]byte, chunk)
	begin, sent := time.Now(), 0
	for counting := false; ; {
		n, err := c.Write(b)
		if err != nil {
			return 0, err
		}
		sent += n
		took := time.Since(begin)
		if !counting && took > warmUp {
			counting, begin, sent = true, time.Now(), 0
		}
		if counting && took > span {
			return float64(sent) * 8 / took.Seconds(), nil
		}
	}
}

func latency(ctx context.Context, address string) (time.Duration, error) {
	c, err := dial(ctx, address, forTrips)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var trips []time.Duration
	b := []byte{0}
	for begin := time.Now(); time.Since(begin) < roundTrip; {
		start := time.Now()
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		trips = append(trips, time.Since(start))
	}
	slices.Sort(trips)
	return trips[len(trips)/2], nil
}
