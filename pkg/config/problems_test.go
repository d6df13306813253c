package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/knarr-io/knarr/tests/golden"
)

type problemCase struct {
	name  string
	given given
}

// args makes a case out of a command line alone, file one out of a config.yaml.
func args(name string, args ...string) problemCase { return problemCase{name, given{args: args}} }
func file1(name, content string) problemCase {
	return problemCase{name, given{files: map[string]string{mainFile: content}}}
}

// TestProblems writes every message there is, under its input, to golden files:
// a reviewer reads a changed message as a difference.
func TestProblems(t *testing.T) {
	for group, cases := range map[string][]problemCase{
		"names": nameProblems(), "values": valueProblems(), "files": fileProblems(), "conflicts": conflictProblems(),
	} {
		t.Run(group, func(t *testing.T) {
			var b strings.Builder
			for _, c := range cases {
				s, err := LoadServer(c.given.input())
				var bad *Error
				if !errors.As(err, &bad) {
					t.Errorf("%s: want problems, got %+v", c.name, s)
					continue
				}
				if bad.ExitCode() != 2 {
					t.Errorf("%s: exit code %d", c.name, bad.ExitCode())
				}
				fmt.Fprintf(&b, "## %s\n%s%s\n\n", c.name, c.given, err)
			}
			golden.Check(t, "testdata/problems-"+group+".golden", b.String())
		})
	}
}

// String writes the input as a user would have given it.
func (g given) String() string {
	var b strings.Builder
	for _, a := range g.args {
		fmt.Fprintf(&b, "$ --%s\n", strings.ReplaceAll(a, "\x00", `\0`))
	}
	for _, name := range slices.Sorted(maps.Keys(g.env)) {
		fmt.Fprintf(&b, "$ %s=%s\n", name, g.env[name])
	}
	for _, path := range slices.Sorted(maps.Keys(g.files)) {
		fmt.Fprintf(&b, "%s\n", path)
		for line := range strings.Lines(g.files[path]) {
			fmt.Fprintln(&b, strings.TrimRight("    "+line, " \n"))
		}
	}
	return b.String()
}

func nameProblems() []problemCase {
	return []problemCase{
		args("letter missing", "data-dr=/d"),
		args("letters swapped", "tls-sna=x"),
		args("plural", "node-labels=a=b"),
		args("underscores", "cluster_cidr=10.0.0.0/16"),
		args("camel case", "clusterCIDR=10.0.0.0/16"),
		args("an alias is a candidate, too", "kube-controler-arg=a=b"),
		args("nothing is near", "rootless"),
		args("one letter", "x=1"),
		args("all at once", "nope", "debug=maybe", "https-listen-port=0", "flannel-backend=vxlann"),
		file1("key: letter missing", "data-dr: /d\n"),
		file1("key: dashes", "--debug: true\n-v: 3\n"),
		file1("key: dashes and plus", "--tls-san+: [a]\n"),
		file1("key: plus and letter missing", "tls-sn+: [a]\n"),
		file1("key: nothing is near", "rootless: true\n"),
		file1("key: other case", "Debug: true\n"),
	}
}

func valueProblems() []problemCase {
	long := strings.Repeat("a", 64)
	return []problemCase{
		args("backups", "backup-schedule=every day", "backup-retention=0", "backup-compression=most", "backup-passphrase-file=/missing"),
		{"empty passphrase", given{args: []string{"backup-passphrase-file=/f"}, files: map[string]string{"/f": "\nsecret"}}},
		args("S3", "backup-s3", "backup-s3-bucket=a", "backup-s3-endpoint=https://s3.example.com", "backup-s3-timeout=-1s",
			"backup-s3-proxy=user:secret@proxy", "backup-s3-bucket-lookup-type=virtual", "backup-s3-access-key=a b", "backup-s3-secret-key=x"),
		args("names for backups", "backup-name=../x", "etcd-s3", "etcd-s3-config-secret=Not_A_Name"),
		args("boolean", "debug=maybe"),
		args("boolean, empty", "debug="),
		{"boolean in the environment", given{env: map[string]string{"KNARR_DEBUG": "2"}}},
		args("number", "v=high"), args("number, negative", "v=-1"),
		args("vmodule", "vmodule=apiserver,kubelet=x"),
		args("port, text", "https-listen-port=https"), args("port, zero", "https-listen-port=0"),
		args("port, too large", "https-listen-port=65536"), args("port, far too large", "https-listen-port=99999999999999999999"),
		args("port, not taken from a default", "https-listen-port=-1"),
		args("port range", "service-node-port-range=30000"), args("port range, backwards", "service-node-port-range=32767-30000"),
		args("port range, end", "service-node-port-range=30000-70000"), args("port range, text", "service-node-port-range=a-b"),
		args("address", "bind-address=localhost"), args("address, zone", "bind-address=fe80::1%eth0"), args("address, multicast", "bind-address=224.0.0.1"),
		args("address, unspecified", "advertise-address=0.0.0.0"), args("address, loopback", "node-ip=127.0.0.1"),
		args("address, link-local", "node-external-ip=169.254.1.1"),
		args("range", "cluster-cidr=10.42.0.0"), args("range, bits", "cluster-cidr=10.42.0.0/99"), args("range, inside", "service-cidr=10.43.0.1/16"),
		args("range, mapped", "service-cidr=::ffff:10.43.0.0/112"),
		args("two bad items", "cluster-cidr=10.42.0.0/16,x,y"),
		args("DNS address", "cluster-dns=dns"),
		args("domain", "cluster-domain=Cluster_Local"),
		args("SAN", "tls-san=https://k.example.com,a b"),
		args("backend", "flannel-backend=wireguard"), args("backend, near", "flannel-backend=hostgw"),
		args("snapshotter", "snapshotter=stargz"), args("runtime", "default-runtime=my runtime"),
		args("interface", "flannel-iface=eth0,eth1"), args("interface, long", "flannel-iface=abcdefghijklmnop"),
		args("data-dir", "data-dir=/"), args("path", "log=a\x00b"),
		args("resolv.conf missing", "resolv-conf=/none"),
		args("token, empty", "token="), args("token, space", "token=my secret"), args("token file missing", "token-file=/none"),
		{"token file empty", given{args: []string{"token-file=/t"}, files: map[string]string{"/t": "\n"}}},
		{"token file, two words", given{args: []string{"token-file=/t"}, files: map[string]string{"/t": "very secret"}}},
		args("kubeconfig mode", "write-kubeconfig-mode=0888"), args("kubeconfig mode, bits", "write-kubeconfig-mode=1777"),
		args("kubeconfig group", "write-kubeconfig-group=a:b"),
		args("datastore, no scheme", "datastore-endpoint=user:password@host/db"), args("datastore, scheme", "datastore-endpoint=oracle://user:password@host"),
		args("datastore, near scheme", "datastore-endpoint=postgress://user:password@host"), args("datastore, nothing", "datastore-endpoint=mysql://"),
		args("datastore, etcd members", "datastore-endpoint=https://a:2379,b:2379"),
		args("datastore, files", "datastore-endpoint=mysql://h/d", "datastore-cafile=/none"),
		args("component", "disable=treafik"),
		args("argument, no key", "kubelet-arg==1"), args("argument, dashes only", "kube-apiserver-arg=--"), args("argument, space", "kube-proxy-arg=proxy mode=nftables"),
		args("node name", "node-name=my_node"), args("node name, long", "node-name="+long), args("node name, dash", "node-name=node-"),
		args("label", "node-label=a b=c"), args("label, no key", "node-label==c"), args("label, value", "node-label=a=b/c"), args("label, long", "node-label=a="+long),
		args("label, reserved", "node-label=node-role.kubernetes.io/worker=true"), args("label, reserved, k8s.io", "node-label=x.k8s.io/y=z"),
		args("taint, no effect", "node-taint=a=b"), args("taint, effect", "node-taint=a=b:noschedule"), args("taint, unknown effect", "node-taint=a=b:Never"),
		args("taint, key", "node-taint=:NoExecute"), args("taint, value", "node-taint=a=b c:NoExecute"),
		args("credential provider missing", "image-credential-provider-bin-dir=/none", "image-credential-provider-config=/none"),
		args("socket", "container-runtime-endpoint=tcp://1.2.3.4"), args("socket, relative", "image-service-endpoint=run/x.sock"),
		args("image", "pause-image=Not An Image"), args("registry", "system-default-registry=https://r.example.com"), args("registry, no host", "system-default-registry=library"),
		args("registry file missing", "private-registry=/none"),
	}
}

func fileProblems() []problemCase {
	return []problemCase{
		args("named file missing", "config=/none.yaml"),
		{"named file is a directory", given{args: []string{"config=/etc"}, files: map[string]string{"/etc/x": ""}}},
		{"environment names it", given{env: map[string]string{"KNARR_CONFIG_FILE": "/none.yaml"}}},
		file1("syntax", "debug: true\n  bad: [\n"),
		file1("tab", "debug:\n\ttrue\n"),
		file1("not a mapping", "- debug\n"),
		file1("only a text", "debug\n"),
		file1("two documents", "debug: true\n---\ndebug: false\n"),
		file1("second document bad", "debug: true\n---\n[\n"),
		file1("list for one value", "node-name: [a, b]\n"),
		file1("mapping for one value", "node-name: {a: b}\n"),
		file1("mapping for a list", "node-label:\n  a: b\n"),
		file1("list in a list", "node-label:\n  - a=b\n  - [c=d]\n"),
		file1("no value", "node-name:\ndebug:\n"),
		file1("boolean", "debug: maybe\n"),
		file1("duplicate", "debug: true\nv: 1\ndebug: false\n"),
		file1("duplicate by alias", "token: a\nt: b\n"),
		file1("duplicate append", "tls-san+: a\ntls-san+: b\n"),
		file1("key is a list", "? [a]\n: b\n"),
		file1("merge key", "<<: {debug: true}\n"),
		file1("names another file", "config: /other.yaml\n"),
		file1("line of an item", "# first\nnode-taint:\n  - a=b:NoExecute\n  - a=b:Nope\n  - c\n"),
		file1("secret stays secret", "token: very secret\ndatastore-endpoint: user:password\n"),
		{"each file by its name", given{files: map[string]string{mainFile: "v: x\n", dropA: "nope: 1\n", dropB: "cluster-cidr: 1\n"}}},
		{"appended items by their files", given{files: map[string]string{mainFile: "cluster-dns: [a]\n", dropA: "cluster-dns+: [b]\n"}}},
		{"replaced value is not looked at", given{args: []string{"v=y"}, files: map[string]string{mainFile: "v: x\n"}}},
	}
}

func conflictProblems() []problemCase {
	files := map[string]string{"/f": "x", "/dir/x": ""}
	withFiles := func(name string, args ...string) problemCase {
		return problemCase{name, given{args: args, files: files}}
	}
	store := "datastore-endpoint=postgres://h/db"
	return []problemCase{
		args("two datastores", "cluster-init", store), args("restore without reset", "cluster-reset-restore-path=/b"),
		args("S3 without a bucket", "backup-s3"), args("S3 without its switch", "backup-s3-bucket=abc", "etcd-s3-insecure"),
		args("S3 in a Secret and not", "etcd-s3", "etcd-s3-config-secret=s3", "etcd-s3-bucket=abc", "etcd-s3-insecure=false"),
		args("a Secret without S3", "etcd-s3-config-secret=s3"),
		args("for an embedded etcd", "datastore-endpoint=https://192.0.2.1:2379", "etcd-arg=quota-backend-bytes=1", "etcd-expose-metrics"),
		args("half a key", "backup-s3", "backup-s3-bucket=abc", "backup-s3-access-key=a"),
		args("schedule that does not count", "disable-backups", "backup-schedule=@daily"),
		withFiles("two tokens", "token=a", "token-file=/f"),
		{"two tokens, two places", given{env: map[string]string{"KNARR_TOKEN": "a"}, files: map[string]string{mainFile: "token-file: /f\n", "/f": "x"}}},
		withFiles("certificate without key", store, "datastore-certfile=/f"),
		withFiles("key without certificate", store, "datastore-keyfile=/f"),
		withFiles("datastore files without endpoint", "datastore-cafile=/f"),
		withFiles("datastore files with SQLite", "datastore-endpoint=sqlite:///x.db", "datastore-certfile=/f", "datastore-keyfile=/f"),
		withFiles("credential directory alone", "image-credential-provider-bin-dir=/dir"),
		withFiles("credential configuration alone", "image-credential-provider-config=/f"),
		args("services in pods", "cluster-cidr=10.0.0.0/8"),
		args("pods in services", "service-cidr=10.42.128.0/17"),
		args("overlap of the second family", "cluster-cidr=10.42.0.0/16,fd00::/56", "service-cidr=10.43.0.0/16,fd00::/112"),
		args("families differ", "cluster-cidr=10.42.0.0/16,fd00::/56"),
		args("families in another order", "cluster-cidr=10.42.0.0/16,fd00:42::/56", "service-cidr=fd00:43::/112,10.43.0.0/16"),
		args("two of one family", "cluster-cidr=10.42.0.0/16,10.44.0.0/16", "service-cidr=10.43.0.0/16,10.45.0.0/16"),
		args("three ranges", "cluster-cidr=10.42.0.0/16,fd00::/56,10.44.0.0/16"),
		args("no range", "cluster-cidr=,", "service-cidr="),
		args("pods too few", "cluster-cidr=10.42.0.0/25"),
		args("pods, IPv6, too many", "cluster-cidr=fd00::/32", "service-cidr=fd01::/112"),
		args("pods, IPv6, too few", "cluster-cidr=fd00::/72", "service-cidr=fd01::/112"),
		args("services too few for DNS", "service-cidr=10.43.0.0/29"),
		args("DNS elsewhere", "cluster-dns=10.44.0.10"),
		args("DNS is the API", "cluster-dns=10.43.0.1"),
		args("DNS twice", "cluster-dns=10.43.0.10,10.43.0.11"),
		args("DNS of the old range", "service-cidr=10.99.0.0/16", "cluster-dns=10.43.0.10"),
		args("API port is a node port", "https-listen-port=31000"),
		{"API port is a node port, from a file", given{files: map[string]string{mainFile: "service-node-port-range: 6000-7000\n"}}},
		args("node in the pods' range", "node-ip=10.42.3.4"),
		args("node in the services' range", "node-ip=10.43.3.4"),
		args("two node addresses", "node-ip=192.0.2.1,192.0.2.2"),
		args("two external addresses", "node-external-ip=192.0.2.1,192.0.2.2"),
		args("node of the other family", "node-ip=2001:db8::1"),
		args("advertised address of the other family", "advertise-address=2001:db8::1"),
		args("name too long for its id", "node-name="+strings.Repeat("a", 55), "with-node-id"),
		args("label twice", "node-label=a=b", "node-label=a=c"),
		args("taint twice", "node-taint=a=b:NoExecute", "node-taint=a=c:NoExecute"),
		args("flannel flags without flannel", "flannel-backend=none", "flannel-iface=eth0", "flannel-ipv6-masq"),
		withFiles("containerd flags without containerd", "container-runtime-endpoint=/run/crio.sock", "default-runtime=crun", "snapshotter=native",
			"private-registry=/f", "disable-default-registry-endpoint", "nonroot-devices"),
		args("alsologtostderr without log", "alsologtostderr"),
		args("arguments of what does not run", "disable-scheduler", "kube-scheduler-arg=v=4",
			"disable-kube-proxy", "kube-proxy-arg=v=4"),
		args("roles that leave nothing", "disable-etcd", "disable-apiserver", "datastore-endpoint=postgres://db/knarr"),
		args("arguments of a node that does not run", "disable-agent", "kubelet-arg=v=4"),
		args("bad values are not compared", "cluster-cidr=10.42.0.0/99", "cluster-dns=x", "advertise-address=2001:db8::1"),
	}
}

// TestNoProblem has what looks like a contradiction and is none.
func TestNoProblem(t *testing.T) {
	for _, c := range []problemCase{
		args("switches that are off", "flannel-backend=none", "flannel-ipv6-masq=false", "alsologtostderr=false"),
		args("dual stack", "cluster-cidr=10.42.0.0/16,fd00:42::/56", "service-cidr=10.43.0.0/16,fd00:43::/112", "node-ip=192.0.2.1,2001:db8::1",
			"cluster-dns=10.43.0.10,fd00:43::10"),
		args("IPv6 alone", "cluster-cidr=fd00:42::/56", "service-cidr=fd00:43::/112", "node-ip=2001:db8::1", "advertise-address=2001:db8::2"),
		args("a node's share of the user's", "cluster-cidr=10.42.0.0/25", "kube-controller-manager-arg=node-cidr-mask-size=26"),
		args("same label twice", "node-label=a=b", "node-label=a=b"),
		args("taints of two effects", "node-taint=a=b:NoExecute", "node-taint=a=b:NoSchedule"),
		args("labels a kubelet may set", "node-label=node.kubernetes.io/pool=a", "node-label=topology.kubernetes.io/zone=z", "node-label=x.kubelet.kubernetes.io/a="),
		args("small services with a DNS of their own", "service-cidr=10.43.0.0/29", "cluster-dns=10.43.0.2"),
		args("upper case is lowered", "node-name=Node-1"),
		args("etcd members", "datastore-endpoint=https://a:2379,https://b:2379"),
		args("MySQL's address is no URL", "datastore-endpoint=mysql://u:p@tcp(h:3306)/db"),
		args("postgresql is postgres", "datastore-endpoint=postgresql://h/db"),
		args("SQLite alone", "datastore-endpoint=sqlite://"),
		args("default registry file, named", "private-registry=/etc/knarr/registries.yaml"),
		{"an empty directory of drop-ins", given{files: map[string]string{dropA: ""}}},
	} {
		t.Run(c.name, func(t *testing.T) { mustLoad(t, c.given) })
	}
}

// TestHostnameIsNoNodeName has its own test, as it is no flag.
func TestHostnameIsNoNodeName(t *testing.T) {
	in := given{}.input()
	in.Hostname = "my_host"
	_, err := LoadServer(in)
	want := `bad configuration: the host's name "my_host": not a node name; set --node-name to ` + nodeName().allowed
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestWordsAndMissingValues(t *testing.T) {
	in := given{}.input()
	in.Words = []string{"start"}
	in.CommandLine = []Occurrence{{Name: "config", Missing: true}}
	_, err := LoadServer(in)
	want := "bad configuration, 2 problems:\n  - --config: has no value; want a path\n" +
		"  - command line \"start\": unexpected argument; `knarr server` takes flags only"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// lockedFS refuses to open some paths.
type lockedFS struct {
	fstest.MapFS
	locked []string
}

func (f lockedFS) Open(name string) (fs.File, error) {
	if slices.Contains(f.locked, name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f.MapFS.Open(name)
}

func (f lockedFS) ReadFile(name string) ([]byte, error) {
	if slices.Contains(f.locked, name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f.MapFS.ReadFile(name)
}

func (f lockedFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if slices.Contains(f.locked, name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f.MapFS.ReadDir(name)
}

func TestUnreadableFiles(t *testing.T) {
	tree := fstest.MapFS{"etc/knarr/config.yaml": {}, "etc/knarr/config.yaml.d/10-a.yaml": {}}
	for _, c := range []struct{ locked, want string }{
		{"etc/knarr/config.yaml", "bad configuration: /etc/knarr/config.yaml: cannot read the configuration file: permission denied"},
		{"etc/knarr/config.yaml.d", "bad configuration: /etc/knarr/config.yaml.d: cannot read the directory of drop-in files: permission denied"},
		{"etc/knarr/config.yaml.d/10-a.yaml", "bad configuration: /etc/knarr/config.yaml.d/10-a.yaml: cannot read the configuration file: permission denied"},
	} {
		in := given{}.input()
		in.FS = lockedFS{tree, []string{c.locked}}
		if _, err := LoadServer(in); err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}
