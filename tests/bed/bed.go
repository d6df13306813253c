// Package bed is what unit tests of components lie in: it runs a component for as long as a test lasts, and waits, with
// patience, for what should come about. It is not for what can be waited for otherwise: a channel, or testing/synctest.
//
// It stops nothing but what [Run] has started, at the end of the test.
package bed

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// Patience is how long anything is waited for: long enough for a machine that is busy with other tests.
const Patience = time.Minute

// Run runs a component until stop is called, or the test ends, and waits until it is ready. It has to end without an
// error.
func Run(t testing.TB, c lifecycle.Component) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	once := sync.OnceFunc(func() { close(ready) })
	go func() { ended <- c.Run(ctx, once) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s ended with %v", c.Name(), err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil // for stop
		t.Fatalf("%s ended before it was ready: %v", c.Name(), err)
	case <-time.After(Patience):
		t.Fatalf("%s does not get ready", c.Name())
	}
	return stop
}

// Eventually waits until try returns nil.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.After(Patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("wait for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// Until waits for a condition.
func Until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	Eventually(t, what, func() error {
		if condition() {
			return nil
		}
		return errors.New("it has not come about")
	})
}

// Journal is a log to look into. Its zero value is empty.
type Journal struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (j *Journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// Has tells whether a text was written.
func (j *Journal) Has(text string) bool { return strings.Contains(j.String(), text) }

// String is all that was written.
func (j *Journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
