package datastore_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/datastore/contract"
	"github.com/knarr-io/knarr/pkg/retry"
	"github.com/knarr-io/knarr/tests/bed"
)

// sqlTraits are those of kine's SQL drivers.
var sqlTraits = contract.Traits{NoVersions: true, TextKeys: true, LooseCompaction: true}

// runStore runs a store in this process and returns a client made from what Access tells, as the apiserver's is.
func runStore(t *testing.T, config datastore.Config) *clientv3.Client {
	t.Helper()
	c := datastore.New(config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	bed.Run(t, c)
	if st, err := c.Status(t.Context()); err != nil || st.Revision == 0 || st.DiskBytes == 0 {
		t.Errorf("status: %+v, %v", st, err)
	}
	a := c.Access()
	cc := clientv3.Config{Endpoints: a.Endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if a.Dial != nil {
		cc.DialOptions = []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return a.Dial(ctx, "tcp", addr)
		})}
	}
	if a.CAFile != "" {
		cc.TLS = clientTLS(t, a)
	}
	client, err := clientv3.New(cc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func clientTLS(t *testing.T, a datastore.Access) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(a.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}
}

// daemon runs a server until the test ends, as a user.
func daemon(t *testing.T, as string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(t, as), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Logf("%s: %v", name, err) // MariaDB and PostgreSQL differ in what a stop by signal returns
		}
	})
}

func credential(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if uerr != nil || gerr != nil {
		t.Fatal(uerr, gerr)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// runAs runs a command to its end.
func runAs(t *testing.T, as, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(t, as)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// serverDir makes a directory, with a short name for the sake of sockets, that belongs to a user.
func serverDir(t *testing.T, as string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	c := credential(t, as)
	if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// postgres runs a PostgreSQL server with TLS on a loopback port and without on a socket.
func postgres(t *testing.T, files tlsFiles) (sock string, port int) {
	t.Helper()
	const as = "postgres"
	dir := serverDir(t, as)
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	bin := found[len(found)-1]
	data := filepath.Join(dir, "data")
	runAs(t, as, filepath.Join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
	for name, from := range map[string]string{"server.crt": files.cert, "server.key": files.key, "ca.crt": files.ca} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(data, name)
		if err := os.WriteFile(to, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c := credential(t, as)
		if err := os.Chown(to, int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	port = freePort(t)
	daemon(t, as, filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-p", strconv.Itoa(port), "-h", "127.0.0.1",
		"-c", "ssl=on", "-c", "ssl_ca_file=ca.crt", "-c", "fsync=off")
	listening(t, "unix", filepath.Join(dir, fmt.Sprint(".s.PGSQL.", port)))
	// It refuses connections until it has recovered, even an empty log.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = retry.Until(ctx, "PostgreSQL", retry.Backoff{First: 20 * time.Millisecond, Max: time.Second}, func(ctx context.Context) (bool, error) {
		err := exec.CommandContext(ctx, filepath.Join(bin, "pg_isready"), "-q", "-h", dir, "-p", strconv.Itoa(port)).Run()
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, port
}

// mariadb runs a MariaDB server on a socket.
func mariadb(t *testing.T) (sock string) {
	t.Helper()
	const as = "mysql"
	dir := serverDir(t, as)
	data := filepath.Join(dir, "data")
	runAs(t, as, "mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	sock = filepath.Join(dir, "s")
	daemon(t, as, "mariadbd", "--no-defaults", "--datadir="+data, "--socket="+sock, "--skip-networking",
		"--pid-file="+filepath.Join(dir, "pid"))
	listening(t, "unix", sock)
	return sock
}

// listening waits for a server's socket.
func listening(t *testing.T, network, address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.Dial(network, address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the database server did not start: %v", err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func TestPostgreSQL(t *testing.T) {
	files := makeTLS(t)
	sock, port := postgres(t, files)
	for name, config := range map[string]datastore.Config{
		"socket": {Endpoint: fmt.Sprintf("postgres://postgres@/plain?host=%s&port=%d&sslmode=disable", url.QueryEscape(sock), port)},
		"TLS": {
			Endpoint: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/secure?sslmode=verify-full", port),
			CAFile:   files.ca, CertFile: files.clientCert, KeyFile: files.clientKey,
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := runStore(t, config)
			contract.Run(t, sqlTraits, func(*testing.T) *clientv3.Client { return client })
		})
	}
}

func TestMariaDB(t *testing.T) {
	client := runStore(t, datastore.Config{Endpoint: "mysql://root@unix(" + mariadb(t) + ")/kine"})
	traits := sqlTraits
	traits.ASCIIKeys = true
	contract.Run(t, traits, func(*testing.T) *clientv3.Client { return client })
}

// nats runs a NATS server with JetStream on a loopback port, where only who shows a certificate may connect.
func nats(t *testing.T, files tlsFiles) (port int) {
	t.Helper()
	bin, err := exec.LookPath("nats-server")
	if err != nil {
		t.Fatal("NATS is not installed: apt-get install nats-server")
	}
	port = freePort(t)
	daemon(t, "root", bin, "--jetstream", "--store_dir", t.TempDir(), "--addr", "127.0.0.1", "--port", strconv.Itoa(port),
		"--tlsverify", "--tlscert", files.cert, "--tlskey", files.key, "--tlscacert", files.ca)
	listening(t, "tcp", fmt.Sprint("127.0.0.1:", port))
	return port
}

// natsTraits are those of kine's driver for NATS.
var natsTraits = contract.Traits{NoVersions: true, TextKeys: true, LooseCompaction: true, KeyHistory: true, KeysWithValues: true, BackwardRanges: true}

func TestNATS(t *testing.T) {
	files := makeTLS(t)
	client := runStore(t, datastore.Config{
		Endpoint: fmt.Sprintf("nats://127.0.0.1:%d", nats(t, files)),
		CAFile:   files.ca, CertFile: files.clientCert, KeyFile: files.clientKey,
	})
	contract.Run(t, natsTraits, func(*testing.T) *clientv3.Client { return client })
}

func TestExternalEtcd(t *testing.T) {
	files := makeTLS(t)
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = t.TempDir(), "fatal", []string{os.DevNull}
	cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = files.cert, files.key
	cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.ClientCertAuth = files.ca, true
	cfg.ListenClientUrls = []url.URL{{Scheme: "https", Host: fmt.Sprint("127.0.0.1:", freePort(t))}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	client := runStore(t, datastore.Config{
		Endpoint: cfg.ListenClientUrls[0].String(), CAFile: files.ca, CertFile: files.clientCert, KeyFile: files.clientKey,
	})
	contract.Run(t, contract.Traits{}, func(*testing.T) *clientv3.Client { return client })
}

// tlsFiles are certificates for a server on 127.0.0.1 and for a client named postgres.
type tlsFiles struct{ ca, cert, key, clientCert, clientKey string }

func makeTLS(t *testing.T) tlsFiles {
	t.Helper()
	dir := t.TempDir()
	f := func(name string) string { return filepath.Join(dir, name) }
	run(t, "openssl", strings.Fields("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout "+f("ca.key")+" -out "+f("ca.crt"))...)
	for name, san := range map[string]string{"server": "IP:127.0.0.1", "postgres": "DNS:client"} {
		run(t, "openssl", strings.Fields("req -x509 -CA "+f("ca.crt")+" -CAkey "+f("ca.key")+" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN="+
			name+" -addext subjectAltName="+san+" -addext basicConstraints=CA:FALSE -keyout "+f(name+".key")+" -out "+f(name+".crt"))...)
	}
	return tlsFiles{f("ca.crt"), f("server.crt"), f("server.key"), f("postgres.crt"), f("postgres.key")}
}
