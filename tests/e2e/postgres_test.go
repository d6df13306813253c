package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// postgres is a PostgreSQL on a host of its own.
type postgres struct {
	host     *lab.Host
	bin      string
	endpoint string
}

const postgresData = "/var/lib/pg"

// as is the command line of a program of PostgreSQL's, run by its user.
func (p *postgres) as(program string, args ...string) []string {
	return append([]string{"runuser", "-u", "postgres", "--", filepath.Join(p.bin, program)}, args...)
}

func runPostgres(t *testing.T, name string) *postgres {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	h := suite.lab.Host(t, name, lab.Options{})
	p := &postgres{host: h, bin: found[len(found)-1], endpoint: "postgres://postgres@" + h.Addr().String() + ":5432/knarr?sslmode=disable"}
	for _, args := range [][]string{
		{"install", "-d", "-o", "postgres", "-m", "700", postgresData},
		p.as("initdb", "-D", postgresData, "-A", "trust", "-U", "postgres", "--no-sync"),
		{"sh", "-c", "echo host all all 198.18.0.0/16 trust >> " + postgresData + "/pg_hba.conf"},
	} {
		if out, err := h.Exec(t.Context(), args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	p.start(t)
	return p
}

// start starts it, again if it ends: it does not start while there is one of its processes from before.
func (p *postgres) start(t *testing.T) {
	t.Helper()
	var process *lab.Process
	eventually(t, "PostgreSQL", func() error {
		ended := process == nil
		if !ended {
			select {
			case <-process.Done():
				ended = true
			default:
			}
		}
		if ended {
			var err error
			process, err = p.host.Start(lab.Cmd{Args: p.as("postgres", "-D", postgresData, "-k", postgresData, "-h", "*")})
			must(t, err)
		}
		_, err := p.host.Exec(t.Context(), filepath.Join(p.bin, "pg_isready"), "-h", postgresData)
		return err
	})
}

// crash kills all of its processes and starts it again.
func (p *postgres) crash(t *testing.T) {
	t.Helper()
	const kill = `for p in /proc/[0-9]*; do [ "$(stat -c %U "$p" 2>/dev/null)" != postgres ] || kill -9 "${p#/proc/}"; done; rm ` + postgresData + `/postmaster.pid`
	out, err := p.host.Exec(t.Context(), "sh", "-c", kill)
	if err != nil {
		t.Fatalf("kill PostgreSQL: %v\n%s", err, out)
	}
	p.start(t)
}

// TestPostgresCrashes has the database be killed while many write: what was acknowledged is there, and the server goes on.
func TestPostgresCrashes(t *testing.T) {
	database := runPostgres(t, "crash-postgres")
	s := lean(t, "crash-server")
	s.Args = []string{"--datastore-endpoint", database.endpoint, "--token", "of-one", "--disable", unneeded}
	e := begin(t, s)
	writing, stop := context.WithCancel(e.ctx)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var acknowledged []string
	for w := range 60 {
		wg.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				name := fmt.Sprintf("written-%d-%d", w, n)
				if _, err := e.client.CoreV1().ConfigMaps(e.ns).Create(writing, configMapNamed(name), metav1.CreateOptions{}); err == nil {
					mu.Lock()
					acknowledged = append(acknowledged, name)
					mu.Unlock()
				}
			}
		})
	}
	defer wg.Wait()
	defer stop()
	more := func(what string) {
		t.Helper()
		mu.Lock()
		want := len(acknowledged) + 200
		mu.Unlock()
		e.eventually(what, func() error {
			mu.Lock()
			defer mu.Unlock()
			if have := len(acknowledged); have < want {
				return fmt.Errorf("%d writes, want %d", have, want)
			}
			return nil
		})
	}
	more("writes")
	for range 3 {
		database.crash(t)
		more("writes after a crash of the database")
	}
	stop()
	wg.Wait()
	there := make(map[string]bool)
	list, err := e.client.CoreV1().ConfigMaps(e.ns).List(e.ctx, metav1.ListOptions{})
	must(t, err)
	for _, c := range list.Items {
		there[c.Name] = true
	}
	lost := slices.DeleteFunc(slices.Clone(acknowledged), func(name string) bool { return there[name] })
	t.Logf("%d writes acknowledged", len(acknowledged))
	if len(lost) > 0 {
		t.Errorf("%d of them are not there: %v", len(lost), lost)
	}
	if !s.Running() {
		t.Errorf("the server has ended:\n%s", s.LogTail(20))
	}
}

// TestServersOnPostgres is two servers of both families that start at the same moment on one empty database, and have an
// IPv6 address between them.
func TestServersOnPostgres(t *testing.T) {
	endpoint := runPostgres(t, "ha-postgres").endpoint
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
	for _, s := range []*cluster.Server{one, two} {
		if strings.Contains(s.Log(), "too many clients") {
			t.Errorf("%s takes more connections than the database has:\n%s", s.Host.Name(), s.LogTail(20))
		}
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
