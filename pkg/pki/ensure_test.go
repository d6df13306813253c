package pki

import (
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestFirstStart(t *testing.T) {
	c := testConfig(t.TempDir())
	result := mustEnsure(t, testNow(), c)
	verifyAll(t, testNow(), c)
	if got, want := result.NextExpiry, testNow().Add(DefaultLeafLifetime); !got.Equal(want) {
		t.Errorf("next expiry %v, want %v", got, want)
	}
	if len(result.Warnings) > 0 {
		t.Errorf("warnings on a first start: %q", result.Warnings)
	}
	ca := readCert(t, c.CAPair(ServerCA).Cert)
	if want := fmt.Sprintf("knarr-server-ca@%d", testNow().Unix()); ca.Subject.CommonName != want {
		t.Errorf("server CA is %q, want %q", ca.Subject.CommonName, want)
	}
	if want := testNow().Add(CALifetime); !ca.NotAfter.Equal(want) {
		t.Errorf("server CA ends %v, want %v", ca.NotAfter, want)
	}

	before := snapshot(t, c)
	if again := mustEnsure(t, testNow().Add(time.Hour), c); len(again.Changes) > 0 {
		t.Errorf("a second start changed:\n%s", changes(again))
	}
	if !maps.Equal(before, snapshot(t, c)) {
		t.Error("a second start changed files without saying so")
	}
}

func TestKubeconfigGolden(t *testing.T) {
	dir := t.TempDir()
	c := testConfig(dir)
	mustEnsure(t, testNow(), c)
	check(t, "controller.kubeconfig", string(slurp(t, c.KubeconfigPath(ControllerManagerKubeconfig))), dir)
	check(t, "kubelet.kubeconfig", string(slurp(t, c.KubeconfigPath(KubeletKubeconfig))), dir)
	admin := string(slurp(t, c.Admin.Path))
	if strings.Contains(admin, dir) {
		t.Errorf("the admin kubeconfig names files, so it cannot be copied:\n%s", admin)
	}
}

// TestRenewal moves the clock through the life of the certificates.
func TestRenewal(t *testing.T) {
	tests := []struct {
		name    string
		after   time.Duration
		change  func(*Config)
		renewed bool
	}{
		{"next day", 1 * days, nil, false},
		{"121 days left", 244 * days, nil, false},
		{"119 days left", 246 * days, nil, true},
		{"expired", 400 * days, nil, true},
		{"clock went back a little", -20 * days, nil, false},
		{"renewal wanted earlier counts for a third of the life", 246 * days, func(c *Config) { c.RenewBefore = 364 * days }, true},
		{"and not for more", 200 * days, func(c *Config) { c.RenewBefore = 364 * days }, false},
		{"short life", 243 * days, func(c *Config) { c.RenewBefore = 10 * days }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := startedConfig(t)
			if tt.change != nil {
				tt.change(&c)
			}
			before := snapshot(t, c)
			now := testNow().Add(tt.after)
			result := mustEnsure(t, now, c)
			verifyAll(t, now, c)
			after := snapshot(t, c)
			for _, leaf := range NewPlan(c).Leaves {
				if renewed := before[leaf.Pair.Cert] != after[leaf.Pair.Cert]; renewed != tt.renewed {
					t.Errorf("%s renewed: %t, want %t", leaf.Name, renewed, tt.renewed)
				}
				if before[leaf.Pair.Key] != after[leaf.Pair.Key] {
					t.Errorf("%s has a new key: a reader could see it beside the old certificate", leaf.Name)
				}
			}
			if tt.renewed && (result.Changes[0].Action != Renewed || after[c.Admin.Path] == before[c.Admin.Path]) {
				t.Errorf("not reported, or the admin kubeconfig has the old certificate:\n%s", changes(result))
			}
			for _, file := range SharedFiles() {
				if path := c.DataDir + "/" + file; before[path] != after[path] {
					t.Errorf("%s changed", file)
				}
			}
		})
	}
}

// TestReissue changes the configuration or the files and names what must come
// of it.
func TestReissue(t *testing.T) {
	write := func(path func(Config) string, data string) func(*testing.T, *Config) {
		return func(t *testing.T, c *Config) { spill(t, path(*c), []byte(data)) }
	}
	admin := func(c Config) Pair { return c.LeafPair(AdminClient) }
	tests := []struct {
		name   string
		change func(*testing.T, *Config)
		want   string
	}{
		{"new tls-san", func(_ *testing.T, c *Config) { c.ExtraSANs = append(c.ExtraSANs, "new.example.com") },
			"reissued kube-apiserver serving: its names changed: +new.example.com\n"},
		{"tls-san gone", func(_ *testing.T, c *Config) { c.ExtraSANs = nil },
			"reissued kube-apiserver serving: its names changed: -knarr.example.com -198.51.100.7\n"},
		{"same tls-san in other words", func(_ *testing.T, c *Config) {
			c.ExtraSANs = []string{"198.51.100.7", "knarr.example.com", "localhost"}
		}, ""},
		{"node moved", func(_ *testing.T, c *Config) {
			c.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.11")}
			c.AdvertiseAddress = netip.Addr{}
		}, "reissued kube-apiserver serving: its names changed: +192.0.2.11 -192.0.2.10 -2001:db8::10\n" +
			"reissued kubelet serving: its names changed: +192.0.2.11 -192.0.2.10 -2001:db8::10\n" +
			"reissued etcd serving: its names changed: +192.0.2.11 -192.0.2.10 -2001:db8::10\n" +
			"reissued etcd peer: its names changed: +192.0.2.11 -192.0.2.10 -2001:db8::10\n"},
		{"node renamed", func(_ *testing.T, c *Config) { c.NodeName = "node-2" },
			"reissued kube-apiserver serving: its names changed: +node-2 -node-1\n" +
				"reissued kubelet: its user changed from \"system:node:node-1\" to \"system:node:node-2\"\n" +
				"reissued kubelet serving: its user changed from \"node-1\" to \"node-2\"\n" +
				"reissued etcd serving: its user changed from \"node-1\" to \"node-2\"\n" +
				"reissued etcd peer: its user changed from \"node-1\" to \"node-2\"\n"},
		{"key damaged", write(func(c Config) string { return admin(c).Key }, "torn"),
			"reissued admin: the private key is damaged\nupdated admin kubeconfig: its content changed\n"},
		{"key empty", write(func(c Config) string { return admin(c).Key }, ""),
			"reissued admin: the private key is damaged\nupdated admin kubeconfig: its content changed\n"},
		{"certificate damaged", write(func(c Config) string { return admin(c).Cert }, "-----BEGIN"),
			"reissued admin: the certificate is damaged\nupdated admin kubeconfig: its content changed\n"},
		{"key of another", func(t *testing.T, c *Config) {
			spill(t, admin(*c).Key, slurp(t, c.LeafPair(SchedulerClient).Key))
		}, "reissued admin: the private key does not belong to the certificate\nupdated admin kubeconfig: its content changed\n"},
		{"certificate of another", func(t *testing.T, c *Config) {
			spill(t, admin(*c).Cert, slurp(t, c.LeafPair(SchedulerClient).Cert))
			spill(t, admin(*c).Key, slurp(t, c.LeafPair(SchedulerClient).Key))
		}, "reissued admin: its user changed from \"system:kube-scheduler\" to \"system:admin\"\nupdated admin kubeconfig: its content changed\n"},
		{"key removed", func(t *testing.T, c *Config) { remove(admin(*c).Key) },
			"reissued admin: the private key is missing\nupdated admin kubeconfig: its content changed\n"},
		{"both removed", func(t *testing.T, c *Config) { remove(admin(*c).Key); remove(admin(*c).Cert) },
			"created admin: missing\nupdated admin kubeconfig: its content changed\n"},
		{"kubeconfig edited", write(func(c Config) string { return c.KubeconfigPath(SchedulerKubeconfig) }, "kind: Config\n"),
			"updated kube-scheduler kubeconfig: its content changed\n"},
		{"copy of a CA removed", func(t *testing.T, c *Config) { remove(c.AgentCA(ClientCA)) },
			"created client-ca for the agent: missing\n"},
		{"clock went back far", func(t *testing.T, c *Config) {
			c.ExtraSANs = nil // issued anew a year later, and so not valid before that
			mustEnsure(t, testNow().Add(365*days), *c)
		}, "reissued"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := startedConfig(t)
			tt.change(t, &c)
			got := changes(mustEnsure(t, testNow(), c))
			if got != tt.want && !(tt.want == "reissued" && strings.Contains(got, "it is valid only from")) {
				t.Errorf("got:\n%swant:\n%s", got, tt.want)
			}
			verifyAll(t, testNow(), c)
		})
	}
}

func TestNewCAReissuesItsLeaves(t *testing.T) {
	c := startedConfig(t)
	remove(c.CAPair(ClientCA).Cert)
	remove(c.CAPair(ClientCA).Key)
	got := changes(mustEnsure(t, testNow().Add(time.Minute), c))
	for _, leaf := range NewPlan(c).Leaves {
		line := "reissued " + leaf.Name + ": another CA signed it\n"
		if strings.Contains(got, line) != (leaf.CA == ClientCA) {
			t.Errorf("%s: reissued wrongly or not at all:\n%s", leaf.Name, got)
		}
	}
	verifyAll(t, testNow().Add(time.Minute), c)
}

func TestRotate(t *testing.T) {
	c := startedConfig(t)
	before := snapshot(t, c)
	result, err := Rotate(testNow(), c, []string{"kubelet", "scheduler"})
	if err != nil {
		t.Fatal(err)
	}
	want := "reissued kube-scheduler: asked for\nreissued kubelet: asked for\nreissued kubelet serving: asked for\n"
	if got := changes(result); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	after := snapshot(t, c)
	for _, l := range []Leaf{SchedulerClient, KubeletClient, KubeletServing} {
		if before[c.LeafPair(l).Key] == after[c.LeafPair(l).Key] {
			t.Errorf("%s kept its key", c.LeafPair(l).Key)
		}
	}
	verifyAll(t, testNow(), c)

	if _, err := Rotate(testNow(), c, []string{"kublet"}); err == nil || !strings.Contains(err.Error(), `unknown service "kublet": use one of api-server, auth-proxy, admin`) {
		t.Errorf("a misspelt service: %v", err)
	}
	if !maps.Equal(after, snapshot(t, c)) {
		t.Error("a misspelt service changed files")
	}
}

func TestPrivateKeysAreClosed(t *testing.T) {
	c := startedConfig(t)
	for _, path := range []string{c.CAPair(ServerCA).Key, c.ServiceKey(), c.LeafPair(KubeletServing).Key} {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mustEnsure(t, testNow(), c)
	verifyAll(t, testNow(), c)
}

func TestAdminKubeconfigPermissions(t *testing.T) {
	c := testConfig(t.TempDir())
	check := func(mode fs.FileMode, gid uint32) {
		t.Helper()
		mustEnsure(t, testNow(), c)
		info, err := os.Stat(c.Admin.Path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != mode {
			t.Errorf("mode %o, want %o", got, mode)
		}
		if got := info.Sys().(*syscall.Stat_t).Gid; got != gid {
			t.Errorf("group %d, want %d", got, gid)
		}
	}
	own := uint32(os.Getgid())
	check(0o600, own)
	c.Admin.Mode = 0o644
	check(0o644, own)
	c.Admin.Group = fmt.Sprint(own)
	c.Admin.Mode = 0o640
	check(0o640, own)
	c.Admin.Mode = 0
	check(0o600, own)

	c.Admin.Group = "no-such-group-here"
	if _, err := Ensure(testNow(), c); err == nil || !strings.Contains(err.Error(), "write-kubeconfig-group") {
		t.Errorf("an unknown group: %v", err)
	}
}

func TestNoAdminKubeconfig(t *testing.T) {
	c := testConfig(t.TempDir())
	path := c.Admin.Path
	c.Admin.Path = ""
	mustEnsure(t, testNow(), c)
	if _, err := os.Stat(path); err == nil {
		t.Errorf("%s was written", path)
	}
}

// TestTwoAtOnce lets `knarr certificate rotate` run beside a server.
func TestTwoAtOnce(t *testing.T) {
	c := testConfig(t.TempDir())
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			if i%2 == 0 {
				_, errs[i] = Ensure(testNow(), c)
			} else {
				_, errs[i] = Rotate(testNow(), c, Services())
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	verifyAll(t, testNow(), c)
	if result := mustEnsure(t, testNow(), c); len(result.Changes) > 0 {
		t.Errorf("not at rest afterwards:\n%s", changes(result))
	}
}

func BenchmarkFirstStart(b *testing.B) {
	for b.Loop() {
		if _, err := Ensure(testNow(), testConfig(b.TempDir())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLaterStart(b *testing.B) {
	c := testConfig(b.TempDir())
	for b.Loop() {
		if _, err := Ensure(testNow(), c); err != nil {
			b.Fatal(err)
		}
	}
}
