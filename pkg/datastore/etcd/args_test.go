package etcd

import (
	"errors"
	"flag"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

func TestArgs(t *testing.T) {
	m := &Member{config: Config{Args: []string{
		"quota-backend-bytes=1073741824", "--heartbeat-interval=200", "election-timeout=2000", "pre-vote=false", "strict-reconfig-check",
		"max-concurrent-streams=77", "cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "tls-min-version=TLS1.3",
	}}}
	cfg, err := m.embedConfig()
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"quota":         cfg.QuotaBackendBytes == 1<<30 && m.quota == 1<<30,
		"timing":        cfg.TickMs == 200 && cfg.ElectionMs == 2000,
		"switches":      !cfg.PreVote && cfg.StrictReconfigCheck,
		"streams":       cfg.MaxConcurrentStreams == 77,
		"cipher suites": len(cfg.CipherSuites) == 1,
		"TLS":           cfg.TlsMinVersion == "TLS1.3",
		"knarr's own":   cfg.WatchProgressNotifyInterval == progressInterval && cfg.AutoCompactionRetention == "0" && !cfg.EnableGRPCGateway,
	} {
		if !ok {
			t.Errorf("%s: not as given", name)
		}
	}
}

func TestArgsRefused(t *testing.T) {
	for arg, says := range map[string]string{
		"nonsense=1":                         "no such argument",
		"config-file=/etc/etcd.yaml":         "no such argument",
		"quota-backend-bytes":                "want quota-backend-bytes=VALUE",
		"quota-backend-bytes=many":           "many",
		"data-dir=/srv":                      "--data-dir",
		"name=other":                         "--node-ip",
		"initial-cluster-token=x":            "--node-ip",
		"listen-client-urls=http://0.0.0.0":  "--node-ip",
		"listen-metrics-urls=http://0.0.0.0": "--etcd-expose-metrics",
		"peer-cert-file=/x":                  "renews them",
		"log-level=debug":                    "--debug",
		"force-new-cluster":                  "--cluster-reset",
		"unsafe-no-fsync":                    "on the disk",
	} {
		err := CheckArgs([]string{arg})
		var usage *UsageError
		if !errors.As(err, &usage) || usage.ExitCode() != 2 || !strings.Contains(err.Error(), "--etcd-arg="+arg) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want something of %q", arg, err, says)
		}
	}
}

// TestOwnedNamesAreEtcds sees to it that the table names flags that etcd has.
func TestOwnedNamesAreEtcds(t *testing.T) {
	var names []string
	set := flag.NewFlagSet("etcd", flag.ContinueOnError)
	embed.NewConfig().AddFlags(set)
	set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	for begin := range owned() {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, begin) }) {
			t.Errorf("etcd has no flag that begins with %s", begin)
		}
	}
}

// TestMetrics reads them where they are served, and finds nothing without the flag.
func TestMetrics(t *testing.T) {
	for _, expose := range []bool{true, false} {
		c := Config{Dir: filepath.Join(t.TempDir(), "etcd"), NodeName: "a", ExposeMetrics: expose}
		keys := cluster(t)[0]
		c.Address, c.Peer, c.Server, c.Client = keys.Address, keys.Peer, keys.Server, keys.Client
		m := start(t, c)
		got := fetch(t, "http://"+netip.AddrPortFrom(c.Address, MetricsPort).String()+"/metrics")
		if strings.Contains(got, "etcd_server_has_leader") != expose {
			t.Errorf("exposed %t: %.200q", expose, got)
		}
		m.Close()
	}
	m, cfg := &Member{config: Config{Address: netip.MustParseAddr("2001:db8::1"), ExposeMetrics: true}}, embed.NewConfig()
	m.listen(cfg)
	var urls []string
	for _, u := range cfg.ListenMetricsUrls {
		urls = append(urls, u.String())
	}
	if !slices.Equal(urls, []string{"http://[2001:db8::1]:2381", "http://[::1]:2381"}) {
		t.Errorf("a node's metrics are at %v", urls)
	}
}

// fetch is what a URL answers, or the error.
func fetch(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
