package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// runPostgres runs a PostgreSQL on a host of its own and returns its endpoint.
func runPostgres(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	bin, h := found[len(found)-1], suite.lab.Host(t, "ha-postgres", lab.Options{})
	as := func(args ...string) []string { return append([]string{"runuser", "-u", "postgres", "--"}, args...) }
	const data = "/var/lib/pg"
	for _, args := range [][]string{
		{"install", "-d", "-o", "postgres", "-m", "700", data},
		as(filepath.Join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"),
		{"sh", "-c", "echo host all all 198.18.0.0/16 trust >> " + data + "/pg_hba.conf"},
	} {
		if out, err := h.Exec(t.Context(), args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	_, err = h.Start(lab.Cmd{Args: as(filepath.Join(bin, "postgres"), "-D", data, "-k", data, "-h", "*")})
	must(t, err)
	eventually(t, "PostgreSQL", func() error {
		_, err := h.Exec(t.Context(), filepath.Join(bin, "pg_isready"), "-h", data)
		return err
	})
	return "postgres://postgres@" + h.Addr().String() + ":5432/knarr?sslmode=disable"
}

// TestServersOnPostgres is two servers of both families that start at the same moment on one empty database, and have an
// IPv6 address between them.
func TestServersOnPostgres(t *testing.T) {
	endpoint := runPostgres(t)
	const virtual = "fd00:198:20::f0"
	args := []string{"--datastore-endpoint", endpoint, "--token", "of-both", "--disable", unneeded, "--virtual-ip", virtual,
		"--cluster-cidr=10.42.0.0/16,fd00:42::/56", "--service-cidr=10.43.0.0/16,fd00:43::/112"}
	one, two, stranger := own(t, "pg-one", lab.Options{}), own(t, "pg-two", lab.Options{}), lean(t, "pg-stranger")
	for i, s := range []*cluster.Server{one, two, stranger} {
		_, err := s.Host.Exec(t.Context(), "ip", "addr", "add", fmt.Sprintf("fd00:198:20::%d/64", i+1), "dev", "eth0", "nodad")
		must(t, err)
	}
	for _, s := range []*cluster.Server{one, two} {
		s.Args = args
		must(t, s.Start())
	}
	for _, s := range []*cluster.Server{one, two} {
		_, err := s.WaitNode(t.Context())
		must(t, err)
	}
	for _, name := range []string{"tls/server-ca.key", "tls/service.key", "token"} {
		a, err := one.Host.ReadFile(cluster.DataDir + "/server/" + name)
		must(t, err)
		b, err := two.Host.ReadFile(cluster.DataDir + "/server/" + name)
		must(t, err)
		if string(a) != string(b) {
			t.Errorf("the servers have not the same %s", name)
		}
	}
	strangers(t, stranger, args)

	leader, other := one, two
	e := &servers{env: place(t, one, mustClient(t, one))}
	e.answersAt(stranger.Host, virtual)
	e.eventually("a leader", func() error {
		switch e.status(one).Leader {
		case one.Host.Name():
		case two.Host.Name():
			leader, other = two, one
		default:
			return errors.New("nobody leads")
		}
		return nil
	})
	// Killed, it is succeeded when its lease has run out; the other's API does not notice.
	must(t, leader.Process().Kill())
	began := time.Now()
	e.env = place(t, other, mustClient(t, other))
	_, err := e.client.CoreV1().ConfigMaps("default").Create(e.ctx, configMapNamed("after"), metav1.CreateOptions{})
	must(t, err)
	e.eventually("the other to lead", func() error {
		if leads := e.status(other).Leader; leads != other.Host.Name() {
			return fmt.Errorf("%q leads", leads)
		}
		return nil
	})
	t.Logf("the other leads %.1f s after the leader was killed", time.Since(began).Seconds())
	p := pod("later", web())
	p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": other.Host.Name()}
	e.startPod(p)

	must(t, leader.Start())
	_, err = leader.WaitNode(t.Context())
	must(t, err)
	e.moves(virtual, stranger.Host, one, two)
}

// moves has the server that has a virtual address killed: its kernel is left with the address for a while.
func (e *servers) moves(virtual string, from *lab.Host, one, two *cluster.Server) {
	e.t.Helper()
	has := func(s *cluster.Server) bool {
		out, err := s.Host.Exec(e.ctx, "ip", "-o", "addr", "show", "to", virtual)
		e.must(err)
		return strings.Contains(out, virtual+"/128")
	}
	var holder, other *cluster.Server
	alone := func() error {
		if holder, other = one, two; has(two) {
			holder, other = two, one
		}
		if !has(holder) || has(other) {
			return errors.New("none, or both")
		}
		return nil
	}
	e.eventually("one server to have the address", alone)
	before := holder
	e.must(holder.Process().Kill())
	began := time.Now()
	e.env = place(e.t, other, mustClient(e.t, other))
	e.answersAt(from, virtual)
	e.t.Logf("the API answers at %s %.1f s after its server was killed", virtual, time.Since(began).Seconds())
	e.eventually("the other to have the address, alone", alone)
	if holder == before {
		e.t.Errorf("%s has the address still", holder.Host.Name())
	}
}

func mustClient(t *testing.T, s *cluster.Server) *cluster.Client {
	t.Helper()
	c, err := s.Client()
	must(t, err)
	return c
}

// strangers are servers that the cluster in the database does not take.
func strangers(t *testing.T, s *cluster.Server, args []string) {
	t.Helper()
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"another token", []string{"--token", "of-neither"}, "is not the token of the cluster in this datastore"},
		{"another domain", []string{"--cluster-domain", "site.example"}, `--cluster-domain is "site.example" here and "cluster.local" in the cluster`},
		{"another agent token", []string{"--agent-token", "of-nobody"}, "--agent-token is given here, and the cluster has none"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := s.Command(ctx, append(append([]string{"server"}, args...), c.args...)...)
		cancel()
		if exitCode(err) != 2 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q and exit code 2: %v", c.name, c.want, err)
		}
	}
}
