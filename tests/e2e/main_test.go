package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
	"github.com/knarr-io/knarr/tests/lab/labinit/spec"
)

// suite is what all tests of a run share.
var suite struct {
	lab      *lab.Lab
	root     string // of the checkout
	binary   string // the executable under test
	upstream string // programs of plain upstream, instead of the executable
	archives []string
	shared   func() (*shared, error)
}

func TestMain(m *testing.M) { os.Exit(cluster.RunTests(m, setUp)) }

func setUp(ctx context.Context) (*lab.Lab, error) {
	var err error
	if suite.root, err = filepath.Abs("../.."); err != nil {
		return nil, err
	}
	if suite.upstream = os.Getenv("KNARR_E2E_UPSTREAM"); suite.upstream == "" {
		if suite.binary, err = cluster.Binary(suite.root); err != nil {
			return nil, err
		}
	}
	if suite.lab, err = lab.New(ctx); err != nil {
		return nil, err
	}
	if suite.archives, err = images.Build(ctx, suite.lab.Dir()); err != nil {
		return nil, errors.Join(err, suite.lab.Close())
	}
	suite.shared = sync.OnceValues(startShared)
	return suite.lab, nil
}

// shared is the cluster that most scenarios use, and a host beside it.
type shared struct {
	host    *lab.Host
	client  *cluster.Client
	kubectl []string // how kubectl is called on the host
	log     func() string
	// outside is a host on the same LAN that is no part of the cluster.
	outside *lab.Host
}

// startShared starts the shared cluster. Its hosts go away with the lab.
func startShared() (*shared, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*cluster.StartLimit)
	defer cancel()
	var o lab.Options
	if suite.upstream != "" {
		o.Binds = []spec.Bind{{Source: suite.upstream, Target: "/upstream"}, {Source: filepath.Join(suite.root, "tests/bench/upstream"), Target: "/bench"}}
	}
	h, err := suite.lab.AddHost(ctx, "node", o)
	if err != nil {
		return nil, err
	}
	outside, err := suite.lab.AddHost(ctx, "outside", lab.Options{})
	if err != nil {
		return nil, err
	}
	s := &shared{host: h, outside: outside}
	start := s.startKnarr
	if suite.upstream != "" {
		start = s.startUpstream
	}
	if err := start(ctx); err != nil {
		return nil, err
	}
	return s, s.waitImages(ctx)
}

func (s *shared) startKnarr(ctx context.Context) error {
	server, err := cluster.New(s.host, false, suite.binary, suite.archives)
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	if s.client, err = server.WaitNode(ctx); err != nil {
		return err
	}
	s.kubectl = []string{server.Program, "kubectl"}
	s.log = func() string { return server.LogTail(80) }
	return nil
}

func (s *shared) startUpstream(ctx context.Context) error {
	// The node needs both images: containerd imports one archive at a call.
	for _, a := range suite.archives {
		if err := s.host.CopyIn(a, "/images/"+filepath.Base(a), 0o644); err != nil {
			return err
		}
	}
	if out, err := s.host.Exec(ctx, "/bench/node", "/upstream", "/images/busybox.tar"); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if _, err := s.host.Exec(ctx, "/upstream/ctr", "-a", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "import", "/images/server.tar"); err != nil {
		return err
	}
	kubeconfig, err := s.host.ReadFile("/var/lib/upstream/pki/admin.yaml")
	if err != nil {
		return err
	}
	// The client runs outside of the host's files.
	text := string(kubeconfig)
	for _, f := range []string{"ca.crt", "admin.crt", "admin.key"} {
		path := filepath.Join(suite.lab.Dir(), f)
		b, err := s.host.ReadFile("/var/lib/upstream/pki/" + f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return err
		}
		text = strings.ReplaceAll(text, "/var/lib/upstream/pki/"+f, path)
	}
	s.client, err = cluster.NewClient(s.host, []byte(text))
	s.kubectl = []string{"kubectl", "--kubeconfig=/var/lib/upstream/pki/admin.yaml"}
	s.log = func() string { return "see /var/lib/upstream/log on the host" }
	return err
}

// waitImages waits until the node has imported the test images.
func (s *shared) waitImages(ctx context.Context) error {
	return lab.Poll(ctx, time.Second, func() error {
		n, err := s.client.CoreV1().Nodes().Get(ctx, s.host.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		have := fmt.Sprint(n.Status.Images)
		for _, want := range []string{images.Busybox, images.Server} {
			if !strings.Contains(have, want) {
				return fmt.Errorf("the node does not have %s yet", want)
			}
		}
		return nil
	})
}
