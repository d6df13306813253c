package integration

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// suite is what all tests of a run share.
var suite struct {
	lab    *lab.Lab
	root   string // of the checkout
	binary string // the executable under test
}

func TestMain(m *testing.M) { os.Exit(cluster.RunTests(m, setUp)) }

func setUp(ctx context.Context) (_ *lab.Lab, err error) {
	if suite.root, err = filepath.Abs("../.."); err != nil {
		return nil, err
	}
	if suite.binary, err = cluster.Binary(suite.root); err != nil {
		return nil, err
	}
	suite.lab, err = lab.New(ctx)
	return suite.lab, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own puts the executable on a host of the test's own.
func own(t *testing.T, name string, o lab.Options) *cluster.Server {
	t.Helper()
	s := cluster.Require(t, suite.lab, name, o, suite.binary, nil)
	s.Config = ""
	return s
}

// alone is a server whose host is no node: it starts faster and needs less.
func alone(t *testing.T, name string) *cluster.Server {
	t.Helper()
	s := own(t, name, lab.Options{})
	s.Args = []string{"--disable-agent"}
	return s
}

// outcome runs a command that ends by itself and returns all that it said and
// its exit code.
func outcome(t *testing.T, h *lab.Host, c lab.Cmd) (said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var b strings.Builder
	c.Stdout, c.Stderr = &b, &b
	_, err := h.Run(ctx, c)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return b.String(), 0
	case errors.As(err, &exit):
		return b.String(), exit.ExitCode()
	}
	t.Fatalf("run %v: %v", c.Args, err)
	return "", 0
}

// certPool is nil when pem holds no certificate.
func certPool(pem []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil
	}
	return pool
}
