package pki

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// runningRenewer starts a Renewer inside a synctest bubble, whose clock begins
// at testNow, and returns what it logs and how to stop it.
func runningRenewer(t *testing.T, c Config) (r *Renewer, log *bytes.Buffer, stop func()) {
	t.Helper()
	log = &bytes.Buffer{}
	start := time.Now()
	now := func() time.Time { return testNow().Add(time.Since(start)) }
	r = NewRenewer(c, slog.New(slog.NewTextHandler(log, nil)), now)
	if err := r.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	ended := make(chan error)
	go func() { ended <- r.Run(ctx, func() { close(ready) }) }()
	<-ready
	return r, log, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func pass(d time.Duration) {
	time.Sleep(d) // the bubble's clock, not the wall's
	synctest.Wait()
}

// TestRenewerRunsForYears never restarts.
func TestRenewerRunsForYears(t *testing.T) {
	c := testConfig(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		r, log, stop := runningRenewer(t, c)
		defer stop()
		serial := readCert(t, c.LeafPair(KubeletClient).Cert).SerialNumber
		pass(244 * days)
		if got := readCert(t, c.LeafPair(KubeletClient).Cert).SerialNumber; got.Cmp(serial) != 0 {
			t.Error("renewed too early")
		}
		pass(3 * days)
		if got := readCert(t, c.LeafPair(KubeletClient).Cert).SerialNumber; got.Cmp(serial) == 0 {
			t.Error("not renewed with less than 120 days left")
		}
		pass(900 * days)
		verifyAll(t, testNow().Add(1147*days), c)
		if err := r.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if got := strings.Count(log.String(), "certificate renewed"); got != 4*len(NewPlan(c).Leaves) {
			t.Errorf("%d renewals logged in 1147 days, want %d", got, 4*len(NewPlan(c).Leaves))
		}
	})
}

// TestRenewerFails keeps going while it cannot renew, says so once an hour,
// becomes unhealthy when time runs out, and recovers.
func TestRenewerFails(t *testing.T) {
	c := testConfig(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		r, log, stop := runningRenewer(t, c)
		defer stop()
		ca := slurp(t, c.CAPair(ServerCA).Cert)
		pass(340*days - time.Minute)
		// Renewed 246 days in, so 271 days are left.
		spill(t, c.CAPair(ServerCA).Cert, []byte("torn"))
		pass(10 * time.Hour)
		if got := strings.Count(log.String(), "certificates could not be checked or renewed"); got != 10 {
			t.Errorf("%d failures logged in ten hours, want 10:\n%s", got, log)
		}
		if err := r.Check(t.Context()); err != nil {
			t.Errorf("unhealthy with months left: %v", err)
		}
		pass(258 * days)
		err := r.Check(t.Context())
		if err == nil || !strings.Contains(err.Error(), "certificates end on 2028-07-24") || !strings.Contains(err.Error(), "restore") {
			t.Errorf("with days left: %v", err)
		}
		spill(t, c.CAPair(ServerCA).Cert, ca)
		pass(retryInterval)
		if err := r.Check(t.Context()); err != nil {
			t.Errorf("after the repair: %v", err)
		}
	})
}

func TestRenewerPrepareFails(t *testing.T) {
	c := testConfig(t.TempDir())
	c.ServerURL = ""
	if err := NewRenewer(c, slog.New(slog.DiscardHandler), nil).Prepare(t.Context()); err == nil {
		t.Error("prepared with a bad configuration")
	}
}
