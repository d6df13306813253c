package flannel

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestCheckWireGuard(t *testing.T) {
	var there []string
	add := func(err error) func(netlink.Link) error {
		return func(l netlink.Link) error {
			if l.Type() != "wireguard" {
				t.Errorf("the probe is a %s", l.Type())
			}
			there = append(there, l.Attrs().Name)
			return err
		}
	}
	del := func(l netlink.Link) error { there = there[1:]; return nil }
	if err := checkWireGuard(add(nil), del); err != nil || len(there) != 0 {
		t.Errorf("where the kernel has it: %v, left is %v", err, there)
	}
	if err := checkWireGuard(add(unix.EEXIST), del); err != nil || len(there) != 0 {
		t.Errorf("where a probe was left: %v, left is %v", err, there)
	}
	err := checkWireGuard(add(unix.EOPNOTSUPP), del)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"--flannel-backend=wireguard-native", "this kernel has none", "modprobe wireguard", "--flannel-backend=vxlan", "host-gw"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if err := checkWireGuard(add(unix.EPERM), del); !errors.Is(err, unix.EPERM) || strings.Contains(err.Error(), "has none") {
		t.Errorf("got %v", err)
	}
}

func TestEnsureWireGuardKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	var keys []string
	for range 2 {
		if err := ensureWireGuardKey(file); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := wgtypes.ParseKey(string(text)); err != nil { // as flannel does
			t.Fatal(err)
		}
		keys = append(keys, string(text))
	}
	if keys[0] != keys[1] {
		t.Error("the key changes")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file has %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ensureWireGuardKey(file); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("got %v", err)
	}
}

func TestOptions(t *testing.T) {
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}
	for name, tt := range map[string]struct{ backend, conf, want string }{
		"none":            {vxlanBackend, "", `{"Type":"vxlan"}`},
		"options":         {vxlanBackend, `{"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan", "MTU": 1400, "DirectRouting": true}}`, `{"DirectRouting":true,"MTU":1400,"Type":"vxlan"}`},
		"wireguard":       {wireguardBackend, `{"Backend": {"PersistentKeepaliveInterval": 25}}`, `{"PersistentKeepaliveInterval":25,"Type":"wireguard"}`},
		"another backend": {hostGWBackend, `{"Backend": {"Type": "vxlan"}}`, "is for the backend vxlan, and --flannel-backend is host-gw"},
		"another network": {vxlanBackend, `{"Network": "10.244.0.0/16"}`, "has the network 10.244.0.0/16"},
		"another VNI":     {vxlanBackend, `{"Backend": {"vni": 4096}}`, "has the VNI 4096"},
		"not JSON":        {vxlanBackend, `Network: 10.42.0.0/16`, "want flannel's net-conf.json"},
		"misspelt":        {vxlanBackend, `{"Backends": {}}`, `unknown field "Backends"`},
	} {
		c := Config{Backend: tt.backend, ClusterCIDRs: cidrs}
		if tt.conf != "" {
			c.Options = filepath.Join(t.TempDir(), "net-conf.json")
			if err := os.WriteFile(c.Options, []byte(tt.conf), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n, err := c.network()
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = string(n.Backend)
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

func TestCheckTemplate(t *testing.T) {
	for text, want := range map[string]string{
		`{"cniVersion": "1.0.0", "name": "own", "plugins": [{"type": "bridge"}]}`: "",
		`{"name": "cbr0", "plugins": [{"type": "flannel", "delegate": {}}]}`:      `the plugin "flannel" is not among knarr's`,
		`{"name": "own"}`: "no plugins",
		`name: own`:       "want a CNI plugin list",
	} {
		err := checkTemplate([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// A cluster that gets its second family has nodes with one and with two for a while: all of them are reached.
func TestLeaseOf(t *testing.T) {
	node := func(cidrs []string, annotations ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{annotationManaged: "true", annotationType: "vxlan"}}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
		for i := 0; i < len(annotations); i += 2 {
			n.Annotations[annotations[i]] = annotations[i+1]
		}
		return n
	}
	four := []string{annotationPublicIP, "192.0.2.1", annotationData, `{"VNI":1}`}
	both := append(four[:len(four):len(four)], annotationPublicIPv6, "2001:db8::1", annotationDataV6, `{"VNI":1}`)
	nets := []string{"10.42.1.0/24", "fd00:42:0:1::/64"}
	for name, tt := range map[string]struct {
		network subnet.Config
		node    *corev1.Node
		v4, v6  bool
	}{
		"one of one":                  {subnet.Config{EnableIPv4: true}, node(nets[:1], four...), true, false},
		"two of two":                  {subnet.Config{EnableIPv4: true, EnableIPv6: true}, node(nets, both...), true, true},
		"it has not followed yet":     {subnet.Config{EnableIPv4: true, EnableIPv6: true}, node(nets, four...), true, false},
		"this node has not yet":       {subnet.Config{EnableIPv4: true}, node(nets, both...), true, false},
		"its networks are not there":  {subnet.Config{EnableIPv4: true, EnableIPv6: true}, node(nets[:1], both...), true, false},
		"nothing published":           {subnet.Config{EnableIPv4: true}, node(nets), false, false},
		"nothing of the right family": {subnet.Config{EnableIPv6: true}, node(nets[:1], four...), false, false},
		"published, but no network":   {subnet.Config{EnableIPv4: true}, node(nil, four...), false, false},
	} {
		s := &subnets{network: &tt.network}
		l, ok := s.leaseOf(tt.node)
		if ok != (tt.v4 || tt.v6) || ok && (l.EnableIPv4 != tt.v4 || l.EnableIPv6 != tt.v6) {
			t.Errorf("%s: got %v, %+v", name, ok, l)
		}
		if ok && tt.v6 && !json.Valid(l.Attrs.BackendV6Data) {
			t.Errorf("%s: backend data %s", name, l.Attrs.BackendV6Data)
		}
	}
}

func TestOverride(t *testing.T) {
	s := &subnets{public: []netip.Addr{netip.MustParseAddr("203.0.113.7")}}
	plain, told := &corev1.Node{}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationOverwrite: "198.51.100.9"}}}
	for _, tt := range []struct {
		node *corev1.Node
		key  string
		six  bool
		want string
	}{
		{plain, annotationOverwrite, false, "203.0.113.7"},
		{plain, annotationOverwriteV6, true, "own"},
		{told, annotationOverwrite, false, "198.51.100.9"},
	} {
		if got := s.override(tt.node, tt.key, tt.six, "own"); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestOverhead(t *testing.T) {
	for _, c := range []struct {
		backend  string
		six      bool
		mtu      int // that the backend says
		overhead int
	}{
		{vxlanBackend, false, 1450, 50},
		{vxlanBackend, true, 1450, 70},
		{hostGWBackend, true, 1500, 0},
		{wireguardBackend, true, 1420, 80},
	} {
		device := &backend.ExternalInterface{Iface: &net.Interface{MTU: 1500}}
		if c.six {
			device.IfaceV6Addr = net.ParseIP("2001:db8::1")
		}
		if got := (&Component{config: Config{Backend: c.backend}}).overhead(device, c.mtu); got != c.overhead {
			t.Errorf("%s, IPv6 %v: %d, want %d", c.backend, c.six, got, c.overhead)
		}
	}
}
