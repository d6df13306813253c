package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/tests/golden"
)

func TestTable(t *testing.T) {
	seen := make(map[string]string)
	for _, f := range Table() {
		for _, name := range append(f.Names(), f.Env) {
			if first, ok := seen[name]; ok && name != "" {
				t.Errorf("%s and %s are both called %s", first, f.Name, name)
			}
			seen[name] = f.Name
		}
		if f.Roles&Both == 0 || f.Roles&^Both != 0 || f.Category == "" || f.Usage == "" || f.bind == nil {
			t.Errorf("%s: the row is incomplete: %+v", f.Name, f)
			continue
		}
		if f.Env != "" && !strings.HasPrefix(f.Env, "KNARR_") {
			t.Errorf("%s: variable %s", f.Name, f.Env)
		}
		if f.Boolean() && f.Default != "false" {
			t.Errorf("%s: a switch needs the default false", f.Name)
		}
		if !f.Boolean() && strings.Count(f.Usage, "`") != 2 {
			t.Errorf("%s: its usage does not name the value", f.Name)
		}
		if strings.HasSuffix(f.Usage, ".") || f.Wants() == "" {
			t.Errorf("%s: usage %q, wants %q", f.Name, f.Usage, f.Wants())
		}
	}
}

// samples has a value other than the default for every flag, and what else that
// flag needs to be of use.
func samples() map[string]given {
	arg := func(args ...string) given {
		return given{args: args, files: map[string]string{"/f": "x", "/g": "x", "/dir/x": ""}}
	}
	store := "datastore-endpoint=postgres://h/db"
	s3 := func(args ...string) given {
		return arg(append([]string{"backup-s3", "backup-s3-bucket=abc"}, args...)...)
	}
	return map[string]given{
		"config": arg("config=/f.yaml"), "debug": arg("debug"), "v": arg("v=4"), "vmodule": arg("vmodule=a=1,b=2"),
		"log": arg("log=/l"), "alsologtostderr": arg("log=/l", "alsologtostderr"),
		"bind-address": arg("bind-address=192.0.2.1"), "https-listen-port": arg("https-listen-port=7443"),
		"advertise-address": arg("advertise-address=192.0.2.2"),
		"tls-san":           arg("tls-san=k.example.com,*.example.com", "tls-san=192.0.2.3"), "data-dir": arg("data-dir=/data"),
		"cluster-cidr": arg("cluster-cidr=10.0.0.0/16"), "service-cidr": arg("service-cidr=10.1.0.0/16"),
		"service-node-port-range": arg("service-node-port-range=20000-20100"), "cluster-dns": arg("cluster-dns=10.43.0.53"),
		"cluster-domain": arg("cluster-domain=example.internal"), "flannel-backend": arg("flannel-backend=host-gw"),
		"flannel-ipv6-masq": arg("flannel-ipv6-masq"), "flannel-iface": arg("flannel-iface=eth1"),
		"node-ip": arg("node-ip=192.0.2.4,2001:db8::4"), "node-external-ip": arg("node-external-ip=198.51.100.4"),
		"flannel-external-ip": arg("flannel-external-ip"), "flannel-conf": arg("flannel-conf=/f"), "flannel-cni-conf": arg("flannel-cni-conf=/f"),
		"resolv-conf": arg("resolv-conf=/f"),
		"server":      arg("server=https://192.0.2.1"), "lb-server-port": arg("lb-server-port=7444"), "virtual-ip": arg("virtual-ip=192.0.2.100"),
		"agent-token": arg("agent-token=secret"), "agent-token-file": arg("agent-token-file=/f"),
		"token": arg("token=secret"), "token-file": arg("token-file=/f"),
		"write-kubeconfig": arg("write-kubeconfig=/k"), "write-kubeconfig-mode": arg("write-kubeconfig-mode=640"),
		"write-kubeconfig-group": arg("write-kubeconfig-group=adm"),
		"datastore-endpoint":     arg(store), "datastore-cafile": arg(store, "datastore-cafile=/f"),
		"datastore-certfile": arg(store, "datastore-keyfile=/g", "datastore-certfile=/f"),
		"datastore-keyfile":  arg(store, "datastore-certfile=/f", "datastore-keyfile=/g"),
		"disable":            arg("disable=servicelb"),
		"always-on":          arg("always-on=traefik"), "rest-after": arg("rest-after=30s"),
		"default-local-storage-path": arg("default-local-storage-path=/mnt/volumes"),
		"disable-scheduler":          arg("disable-scheduler"), "disable-cloud-controller": arg("disable-cloud-controller"),
		"disable-apiserver": arg("disable-apiserver"), "disable-controller-manager": arg("disable-controller-manager"),
		"disable-etcd":       arg("server=https://192.0.2.1", "disable-etcd"),
		"disable-kube-proxy": arg("disable-kube-proxy"), "disable-network-policy": arg("disable-network-policy"), "disable-agent": arg("disable-agent"), "disable-helm-controller": arg("disable-helm-controller"),
		"kube-apiserver-arg": arg("kube-apiserver-arg=v=4"), "kube-controller-manager-arg": arg("kube-controller-manager-arg=v=4"),
		"kube-scheduler-arg": arg("kube-scheduler-arg=v=4"),
		"kubelet-arg":        arg("kubelet-arg=v=4"), "kube-proxy-arg": arg("kube-proxy-arg=v=4"),
		"node-name": arg("node-name=n1"), "with-node-id": arg("with-node-id"),
		"node-label": arg("node-label=a=b,example.com/c=d"), "node-taint": arg("node-taint=a=b:NoSchedule"),
		"image-credential-provider-bin-dir": arg("image-credential-provider-config=/f", "image-credential-provider-bin-dir=/dir"),
		"image-credential-provider-config":  arg("image-credential-provider-bin-dir=/dir", "image-credential-provider-config=/f"),
		"protect-kernel-defaults":           arg("protect-kernel-defaults"), "prefer-bundled-bin": arg("prefer-bundled-bin"),
		"container-runtime-endpoint": arg("container-runtime-endpoint=/run/crio.sock"),
		"image-service-endpoint":     arg("image-service-endpoint=unix:///run/images.sock"),
		"default-runtime":            arg("default-runtime=crun"), "snapshotter": arg("snapshotter=native"),
		"pause-image": arg("pause-image=registry.example.com/pause:1"), "private-registry": arg("private-registry=/f"),
		"disable-default-registry-endpoint": arg("disable-default-registry-endpoint"), "nonroot-devices": arg("nonroot-devices"),
		"selinux": arg("selinux"), "system-default-registry": arg("system-default-registry=registry.example.com:5000/knarr"),
		"enable-pprof": arg("enable-pprof"),
		"cluster-init": arg("cluster-init"), "cluster-reset": arg("cluster-reset"),
		"cluster-reset-restore-path": arg("cluster-reset", "cluster-reset-restore-path=/b"),
		"etcd-arg":                   arg("etcd-arg=snapshot-count=9"), "etcd-expose-metrics": arg("etcd-expose-metrics"),
		"backup-schedule": arg("backup-schedule=@every 6h"), "disable-backups": arg("disable-backups"), "disable-upgrade-backup": arg("disable-upgrade-backup"),
		"backup-retention": arg("backup-retention=9"), "backup-dir": arg("backup-dir=/b"), "backup-compression": arg("backup-compression=best"),
		"backup-passphrase-file": arg("backup-passphrase-file=/f"), "backup-name": arg("backup-name=site-1"),
		"backup-s3-config-secret": arg("backup-s3", "backup-s3-config-secret=s3"),
		"backup-s3":               arg("backup-s3-bucket=abc", "backup-s3"), "backup-s3-endpoint": s3("backup-s3-endpoint=192.0.2.9:9000"),
		"backup-s3-endpoint-ca": s3("backup-s3-endpoint-ca=/f"), "backup-s3-skip-ssl-verify": s3("backup-s3-skip-ssl-verify"),
		"backup-s3-insecure": s3("backup-s3-insecure"), "backup-s3-bucket": arg("backup-s3", "backup-s3-bucket=abc"),
		"backup-s3-bucket-lookup-type": s3("backup-s3-bucket-lookup-type=path"), "backup-s3-folder": s3("backup-s3-folder=a/b"),
		"backup-s3-region":     s3("backup-s3-region=eu-1"),
		"backup-s3-access-key": s3("backup-s3-secret-key=s", "backup-s3-access-key=a"), "backup-s3-secret-key": s3("backup-s3-access-key=a", "backup-s3-secret-key=s"),
		"backup-s3-session-token": s3("backup-s3-session-token=t"), "backup-s3-retention": s3("backup-s3-retention=9"),
		"backup-s3-proxy": s3("backup-s3-proxy=http://p:3128"), "backup-s3-timeout": s3("backup-s3-timeout=1m"),
	}
}

// needsFile is what a sample names with --config.
const needsFile = "/f.yaml"

// TestEveryFlagFillsItsField loads each sample and writes down which fields
// differ from a load without that one flag: the golden file is the map from
// flags to fields.
func TestEveryFlagFillsItsField(t *testing.T) {
	var b strings.Builder
	for _, f := range Table() {
		g, ok := samples()[f.Name]
		if !ok {
			t.Errorf("%s has no sample here", f.Name)
			continue
		}
		g.files[needsFile] = ""
		without := g
		without.args = slices.DeleteFunc(slices.Clone(g.args), func(a string) bool { return a == f.Name || strings.HasPrefix(a, f.Name+"=") })
		role := RoleServer
		if f.Roles&role == 0 {
			role = RoleAgent
		}
		_, base := fill(without.input(), role) // one of two flags that need each other may be missing
		l, got := fill(g.input(), role)
		if len(l.problems) > 0 {
			t.Errorf("%s: %v", f.Name, l.problems)
			continue
		}
		diff := fieldDiff("", reflect.ValueOf(base), reflect.ValueOf(got))
		if len(diff) == 0 {
			t.Errorf("%s changes nothing", f.Name)
		}
		fmt.Fprintf(&b, "%-36s %s\n", f.Name, strings.Join(diff, "; "))
		if f.Roles&RoleAgent == 0 {
			continue
		}
		agent, err := LoadAgent(joining(g.input()))
		if agent.Join.Server = got.Join.Server; role == RoleServer { // of which the way to a cluster is no part
			agent.Join = got.Join
		}
		if err != nil || !reflect.DeepEqual(agent.Common, got.Common) {
			t.Errorf("%s: an agent has %+v, %v", f.Name, agent, err)
		}
	}
	golden.Check(t, "testdata/fields.golden", b.String())
}

// joining says where to, as every agent must be told.
func joining(in Input) Input {
	in.CommandLine = append(slices.Clone(in.CommandLine), Occurrence{Name: "server", Value: "https://192.0.2.9"})
	return in
}

// fieldDiff lists the fields of two structs that differ, with the second value.
func fieldDiff(path string, a, b reflect.Value) []string {
	var diff []string
	for i := range a.NumField() {
		name := strings.TrimPrefix(path+"."+a.Type().Field(i).Name, ".")
		name = strings.TrimPrefix(name, "Common.")
		fa, fb := a.Field(i), b.Field(i)
		switch {
		case name == "ConfigFiles" || reflect.DeepEqual(fa.Interface(), fb.Interface()):
		case isSection(fa.Type()):
			diff = append(diff, fieldDiff(name, fa, fb)...)
		default:
			diff = append(diff, fmt.Sprintf("%s=%v", name, fb.Interface()))
		}
	}
	return diff
}

// isSection reports whether a type groups fields, rather than being one value.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.PkgPath() == reflect.TypeFor[Server]().PkgPath() &&
		t.Field(0).IsExported() && t != reflect.TypeFor[PortRange]()
}

// TestAgentFlagsStayInCommon sees to it that no flag of an agent fills a field
// that an agent does not have.
func TestAgentFlagsStayInCommon(t *testing.T) {
	_, base := fill(given{}.input(), RoleAgent)
	for _, f := range Flags(RoleAgent) {
		g := samples()[f.Name]
		g.files[needsFile] = ""
		_, s := fill(g.input(), RoleAgent)
		s.Common = base.Common
		if !reflect.DeepEqual(s, base) {
			t.Errorf("%s fills a field of Server alone", f.Name)
		}
	}
}

func TestServerFlagsAreNotAnAgents(t *testing.T) {
	_, err := LoadAgent(given{args: []string{"https-listen-port=7443"}, files: map[string]string{mainFile: "write-kubeconfig: /k"}}.input())
	want := "bad configuration, 3 problems:\n" +
		"  - --https-listen-port: a flag of another command; `knarr agent` does not take it\n" +
		"  - /etc/knarr/config.yaml:1: write-kubeconfig: a key of another command; `knarr agent` does not take it\n" +
		"  - --server: is needed: the URL of a server, such as https://192.0.2.10:6443; KNARR_URL or `server:` in the configuration file do as well"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestSharedSettings takes them the way they go: from a server to an agent, which compares them with its own.
func TestSharedSettings(t *testing.T) {
	server := mustLoad(t, given{args: []string{"cluster-cidr=10.0.0.0/16,fd00:42::/56", "service-cidr=10.1.0.0/16,fd00:43::/112", "cluster-domain=example.internal", "disable-kube-proxy", "system-default-registry=registry.example.com"}})
	settings := append(server.Shared(), Setting{"of-a-newer-server", "1"})
	member, err := FromCluster(settings)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(member.Shared(), server.Shared()) || member.Components.KubeProxy || member.Network.Domain != "example.internal" {
		t.Errorf("an agent is told %v and has %v", server.Shared(), member.Shared())
	}
	agent, err := LoadAgent(joining(given{args: []string{"service-cidr=10.9.0.0/16", "disable-kube-proxy"}}.input()))
	want := []Setting{{"service-cidr", "10.9.0.0/16"}, {"disable-kube-proxy", "true"}}
	if err != nil || !reflect.DeepEqual(agent.Told.Slice(), want) {
		t.Errorf("told %v, %v; want %v", agent.Told.Slice(), err, want)
	}
	for _, f := range sharedFlags() {
		if i := slices.IndexFunc(Flags(RoleServer), func(row Flag) bool { return row.Name == f.name }); i < 0 {
			t.Errorf("%s is shared but no flag", f.name)
		}
	}
}
