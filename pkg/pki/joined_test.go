package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// cluster is a server's certificates, and what a node is told of them.
func cluster(t *testing.T) (Config, JoinedCAs) {
	t.Helper()
	c := testConfig(t.TempDir())
	if _, err := Ensure(testNow(), c); err != nil {
		t.Fatal(err)
	}
	var cas JoinedCAs
	for ca, into := range map[CA]*[]byte{ServerCA: &cas.Server, ClientCA: &cas.Client} {
		data, err := os.ReadFile(c.CAPair(ca).Cert)
		if err != nil {
			t.Fatal(err)
		}
		*into = data
	}
	return c, cas
}

func nodeConfig(dir string) Config {
	return Config{
		DataDir: dir, Joined: true, NodeName: "node-2", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.20")},
		ClusterDomain: "cluster.local", ServerURL: "https://127.0.0.1:6444",
	}
}

func TestJoinedCertificates(t *testing.T) {
	server, cas := cluster(t)
	node := nodeConfig(t.TempDir())
	now := testNow()
	signed := 0
	sign := func(_ context.Context, name string, csr []byte) ([]byte, error) {
		signed++
		if strings.Contains(string(csr), "PRIVATE") {
			t.Error("a private key is sent away")
		}
		return SignNode(now, server, node.NodeName, node.NodeIPs, name, csr)
	}
	ensure := func(want int) {
		t.Helper()
		signed = 0
		if _, err := EnsureJoined(t.Context(), now, node, cas, sign); err != nil {
			t.Fatal(err)
		}
		if signed != want {
			t.Errorf("%d certificates were signed, want %d", signed, want)
		}
	}
	ensure(4)
	ensure(0)
	now = now.Add(DefaultLeafLifetime - DefaultRenewBefore + time.Hour)
	ensure(4)
	node.NodeIPs = append(node.NodeIPs, netip.MustParseAddr("192.0.2.21"))
	ensure(1)

	serving := readCert(t, node.LeafPair(KubeletServing).Cert)
	if err := serving.VerifyHostname("192.0.2.21"); err != nil {
		t.Error(err)
	}
	client := readCert(t, node.LeafPair(KubeletClient).Cert)
	if client.Subject.CommonName != "system:node:node-2" || client.Subject.Organization[0] != "system:nodes" || client.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("the kubelet is %v", client.Subject)
	}
	for _, k := range []Kubeconfig{KubeletKubeconfig, KubeProxyKubeconfig} {
		if _, err := os.Stat(node.KubeconfigPath(k)); err != nil {
			t.Error(err)
		}
	}
	for _, gone := range []string{node.CAPair(ServerCA).Key, node.ServiceKey()} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is on a node", gone)
		}
	}
}

func TestJoinedWithoutAServer(t *testing.T) {
	_, cas := cluster(t)
	away := errors.New("away")
	_, err := EnsureJoined(t.Context(), testNow(), nodeConfig(t.TempDir()), cas, func(context.Context, string, []byte) ([]byte, error) { return nil, away })
	if !errors.Is(err, away) {
		t.Errorf("got %v", err)
	}
}

func TestSignNodeRefuses(t *testing.T) {
	server, cas := cluster(t)
	var csr []byte
	_, err := EnsureJoined(t.Context(), testNow(), nodeConfig(t.TempDir()), cas, func(_ context.Context, _ string, r []byte) ([]byte, error) {
		csr = r
		return nil, errors.New("seen")
	})
	if csr == nil {
		t.Fatal(err)
	}
	none := []netip.Addr(nil)
	for name, c := range map[string]struct {
		node, cert string
		ips        []netip.Addr
		csr        []byte
		want       string
	}{
		"unknown certificate":    {"node-2", "client-admin", none, csr, `no certificate "client-admin"`},
		"a server's certificate": {"node-2", "serving-kube-apiserver", none, csr, "no certificate"},
		"no PEM":                 {"node-2", "client-kubelet", none, []byte("x"), "not in PEM"},
		"the server's address":   {"node-2", "serving-kubelet", server.NodeIPs, csr, "192.0.2.10 is an address of the servers"},
		"the cluster's address":  {"node-2", "serving-kubelet", []netip.Addr{netip.MustParseAddr("10.43.0.1")}, csr, "10.43.0.1 is an address of the servers"},
		"the API's name":         {"kubernetes.default.svc", "serving-kubelet", none, csr, "is a name of the servers"},
	} {
		_, err := SignNode(testNow(), server, c.node, c.ips, c.cert, c.csr)
		if !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := SignNode(testNow(), server, "node-2", none, "client-kubelet", csr); err != nil {
		t.Error(err)
	}
}
