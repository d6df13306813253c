// Package cluster runs the built knarr executable on test hosts and gives tests
// clients for it. It knows knarr as its users do: by its command line, its
// files, its output and its API. It links none of what the executable embeds.
//
// How it stops: a Server ends with its host.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/knarr-io/knarr/tests/lab"
)

const (
	// Program is where the executable is on a test host.
	Program = "/usr/local/bin/knarr"
	// Kubeconfig is where knarr writes the administrator's kubeconfig.
	Kubeconfig = "/etc/knarr/knarr.yaml"
	// ConfigFile is where knarr reads its configuration.
	ConfigFile = "/etc/knarr/config.yaml"
	// DataDir is knarr's data directory unless a test says otherwise.
	DataDir = "/var/lib/knarr"
	// BareProgram is where the executable is on a host without /usr.
	BareProgram = "/bin/knarr"
)

// Limits of what tests wait for. They are for a machine that is busy with other
// tests, not for a user.
const (
	StartLimit = 3 * time.Minute
	StopLimit  = 2 * time.Minute
	PollEvery  = 50 * time.Millisecond
)

// Server is `knarr server`, or `knarr agent`, on a host, running or not.
type Server struct {
	Host *lab.Host
	// Role is the command, "server" unless given.
	Role string
	// Program is the executable's path on the host.
	Program string
	// Args follow the command; Env is added to its environment.
	Args, Env []string
	// Config is written to ConfigFile before a start, if it is not empty.
	Config string

	process *lab.Process
}

// testConfig keeps a busy or nearly full test machine from evicting pods and
// removing images.
const testConfig = `kubelet-arg+:
- image-gc-high-threshold=100
- image-gc-low-threshold=99
- eviction-hard=memory.available<10Mi,nodefs.available<1%,imagefs.available<1%,nodefs.inodesFree<1%
`

// New puts the executable and the test images on a host. images are archives
// as package images makes them.
func New(h *lab.Host, bare bool, binary string, images []string) (*Server, error) {
	s := &Server{Host: h, Program: Program, Config: testConfig}
	if bare {
		s.Program = BareProgram
	}
	if err := h.CopyIn(binary, s.Program, 0o755); err != nil {
		return nil, fmt.Errorf("put knarr on %s: %w", h.Name(), err)
	}
	for _, i := range images {
		if err := h.CopyIn(i, filepath.Join(DataDir, "agent/images", filepath.Base(i)), 0o644); err != nil {
			return nil, fmt.Errorf("put images on %s: %w", h.Name(), err)
		}
	}
	return s, nil
}

// Start starts the server in the background and does not wait for anything.
func (s *Server) Start() error {
	if s.Running() {
		return fmt.Errorf("start knarr on %s: it runs", s.Host.Name())
	}
	if s.Config != "" {
		if err := s.Host.WriteFile(ConfigFile, []byte(s.Config), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	p, err := s.Host.Start(lab.Cmd{Args: append([]string{s.Program, cmp.Or(s.Role, "server")}, s.Args...), Env: s.Env})
	if err != nil {
		return err
	}
	s.process = p
	return nil
}

// Running tells whether the process started last has not ended.
func (s *Server) Running() bool {
	if s.process == nil {
		return false
	}
	select {
	case <-s.process.Done():
		return false
	default:
		return true
	}
}

// Process is the process started last.
func (s *Server) Process() *lab.Process { return s.process }

// Log is what the process started last has written.
func (s *Server) Log() string {
	if s.process == nil {
		return "(never started)"
	}
	return s.process.Log()
}

// LogTail is the end of Log.
func (s *Server) LogTail(lines int) string {
	all := strings.Split(strings.TrimSpace(s.Log()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Stop asks the server to stop, as a service manager does, and waits for its end.
func (s *Server) Stop(ctx context.Context) (code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, StopLimit)
	defer cancel()
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	code, err = s.process.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("stop knarr on %s: %w\n%s", s.Host.Name(), err, s.LogTail(40))
	}
	return code, nil
}

// wait polls try until it succeeds, the server ends, or the limit is over.
func (s *Server) wait(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, StartLimit)
	defer cancel()
	ended := errors.New("the server has ended")
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-s.process.Done():
			stop(ended)
		case <-ctx.Done():
		}
	}()
	err := lab.Poll(ctx, PollEvery, func() error { return try(ctx) })
	if err != nil {
		return fmt.Errorf("wait for %s on %s: %w\n%s", what, s.Host.Name(), err, s.LogTail(60))
	}
	return nil
}

// WaitAPI waits until the API says that it is ready, and returns clients for it.
func (s *Server) WaitAPI(ctx context.Context) (*Client, error) {
	var c *Client
	err := s.wait(ctx, "the API", func(ctx context.Context) error {
		var err error
		if c, err = s.Client(); err != nil {
			return err
		}
		return c.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	return c, err
}

// WaitNode waits until the API is ready and the node, named as the host is, too.
func (s *Server) WaitNode(ctx context.Context) (*Client, error) {
	c, err := s.WaitAPI(ctx)
	if err != nil {
		return nil, err
	}
	return c, s.wait(ctx, "the node", func(ctx context.Context) error {
		n, err := c.CoreV1().Nodes().Get(ctx, s.Host.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(n.Spec.Taints) > 0 {
			return fmt.Errorf("node has taints %v", n.Spec.Taints)
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("node is not Ready: %v", n.Status.Conditions)
	})
}

// Client is everything tests need to speak to one cluster.
type Client struct {
	*kubernetes.Clientset
	Config *rest.Config
}

// RESTClient asks for paths outside the typed API.
func (c *Client) RESTClient() rest.Interface { return c.CoreV1().RESTClient() }

// Client makes clients from the kubeconfig on the host, with connections made
// inside the host.
func (s *Server) Client() (*Client, error) {
	b, err := s.Host.ReadFile(Kubeconfig)
	if err != nil {
		return nil, err
	}
	return NewClient(s.Host, b)
}

// NewClient makes clients from a kubeconfig whose server address is numeric.
func NewClient(h *lab.Host, kubeconfig []byte) (*Client, error) {
	conf, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	conf.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return h.DialContext(ctx, network, addr)
	}
	conf.QPS = -1 // tests measure the server, not the client's manners
	return ClientFor(conf)
}

// ClientFor makes the typed clients of a configuration.
func ClientFor(conf *rest.Config) (*Client, error) {
	cs, err := kubernetes.NewForConfig(conf)
	if err != nil {
		return nil, fmt.Errorf("make clients: %w", err)
	}
	return &Client{Clientset: cs, Config: conf}, nil
}

// Command runs `knarr ARGS...` on the host to its end.
func (s *Server) Command(ctx context.Context, args ...string) (string, error) {
	return s.Host.Run(ctx, lab.Cmd{Args: slices.Concat([]string{s.Program}, args), Env: s.Env})
}

// Require makes a server on a new host of the test's own, which is named after
// the test's needs and goes away with it.
func Require(t testing.TB, l *lab.Lab, name string, o lab.Options, binary string, images []string) *Server {
	t.Helper()
	s, err := New(l.Host(t, name, o), o.Bare, binary, images)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of knarr's log on %s:\n%s", name, s.LogTail(80))
		}
	})
	return s
}

// Binary finds the executable under test: KNARR_BIN, or dist/knarr of the
// checkout, where scripts/build puts it.
func Binary(root string) (string, error) {
	path := os.Getenv("KNARR_BIN")
	if path == "" {
		path = filepath.Join(root, "dist/knarr")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find the executable under test (run scripts/build, or set KNARR_BIN): %w", err)
	}
	return filepath.Abs(path)
}
