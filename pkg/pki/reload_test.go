package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/knarr-io/knarr/tests/bed"
)

// serve answers TLS handshakes with config until the test ends.
func serve(t *testing.T, config *tls.Config) (addr string) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// The client sees what went wrong.
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return listener.Addr().String()
}

// TestServingCertificateIsReloaded does real handshakes with a listener while
// the names change under it.
func TestServingCertificateIsReloaded(t *testing.T) {
	c := startedConfig(t)
	holder := NewReloadingCertificate(c.LeafPair(APIServerServing))
	addr := serve(t, &tls.Config{GetCertificate: holder.GetCertificate})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(slurp(t, c.AgentCA(ServerCA)))
	dial := func(name string) error {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: name, Time: testNow})
		if err != nil {
			return err
		}
		return conn.Close()
	}

	if err := dial("kubernetes.default.svc"); err != nil {
		t.Fatal(err)
	}
	var wrongName x509.HostnameError
	if err := dial("new.example.com"); !errors.As(err, &wrongName) {
		t.Fatalf("a name not in the certificate: %v", err)
	}
	c.ExtraSANs = []string{"new.example.com"}
	mustEnsure(t, testNow(), c)
	bed.Until(t, "the new name", func() bool { return dial("new.example.com") == nil })

	// Half written by hand: the one before goes on serving.
	spill(t, c.LeafPair(APIServerServing).Cert, []byte("half a"))
	bed.Until(t, "a look at the files", func() bool {
		holder.mu.Lock()
		defer holder.mu.Unlock()
		return time.Since(holder.checked) >= reloadInterval
	})
	if err := dial("new.example.com"); err != nil {
		t.Errorf("with a damaged file: %v", err)
	}
}

func TestReloadLooksOnceASecond(t *testing.T) {
	c := startedConfig(t)
	synctest.Test(t, func(t *testing.T) {
		holder := NewReloadingCertificate(c.LeafPair(APIServerServing))
		first, err := holder.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Rotate(testNow(), c, []string{"api-server"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(reloadInterval - 1)
		if same, _ := holder.GetCertificate(nil); same != first {
			t.Error("looked at the files before its time")
		}
		time.Sleep(time.Nanosecond)
		if second, _ := holder.GetCertificate(nil); second == first {
			t.Error("did not look at the files when it was time")
		}
	})
}

func TestReloadWithoutFiles(t *testing.T) {
	c := testConfig(t.TempDir())
	holder := NewReloadingCertificate(c.LeafPair(SupervisorClient))
	_, err := holder.GetClientCertificate(nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "client-supervisor.crt") {
		t.Errorf("got %v, want an error that names the missing file", err)
	}
}

// TestClientGoReloads pins what kubeconfigs that name files rely on: client-go
// presents a renewed certificate without being told.
func TestClientGoReloads(t *testing.T) {
	c := testConfig(t.TempDir())
	now := time.Now() // client-go's verifier has no clock to inject
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.ServerURL = "https://" + listener.Addr().String()
	mustEnsure(t, now, c)
	serveIdentity(t, listener, c)

	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigPath(SchedulerKubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	who := func() string {
		response, err := client.Get(c.ServerURL)
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err.Error()
		}
		return string(body)
	}
	want := func() string {
		return "system:kube-scheduler " + readCert(t, c.LeafPair(SchedulerClient).Cert).SerialNumber.String()
	}
	if got := who(); got != want() {
		t.Fatalf("the server sees %q, want %q", got, want())
	}
	if _, err := Rotate(now, c, []string{"scheduler"}); err != nil {
		t.Fatal(err)
	}
	bed.Until(t, "the new client certificate", func() bool { return who() == want() })
}

// serveIdentity answers each request with the client certificate it came with.
func serveIdentity(t *testing.T, listener net.Listener, c Config) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(slurp(t, c.CAPair(ClientCA).Cert))
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			leaf := r.TLS.PeerCertificates[0]
			_, _ = io.WriteString(w, leaf.Subject.CommonName+" "+leaf.SerialNumber.String())
		}),
		TLSConfig: &tls.Config{
			GetCertificate: NewReloadingCertificate(c.LeafPair(APIServerServing)).GetCertificate,
			ClientCAs:      pool,
			ClientAuth:     tls.RequireAndVerifyClientCert,
		},
		ErrorLog: log.New(io.Discard, "", 0), // the client reports what fails
	}
	server.SetKeepAlivesEnabled(false) // each request is a new connection
	done := make(chan error)
	go func() { done <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
