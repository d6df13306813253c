package netpol

import (
	"path/filepath"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/golden"
)

// TestRules shows what each kind of rule becomes.
func TestRules(t *testing.T) {
	for name, spec := range map[string]string{
		"deny-all":           `{podSelector: {}, policyTypes: [Ingress, Egress]}`,
		"allow-all-ingress":  `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{}]}`,
		"pods":               `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`,
		"namespaces":         `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]}`,
		"pods-in-namespaces": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: web}}}]}]}`,
		"blocks": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [
  {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.42.0.0/24]}}, {ipBlock: {cidr: 10.1.128.0/17}}, {ipBlock: {cidr: "::/0", except: ["fd00::/8"]}}]}]}`,
		"ports": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{ports: [
  {port: 80}, {port: 5000, endPort: 6000, protocol: UDP}, {protocol: SCTP}, {port: web}]}]}`,
		"named-ports": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}], ports: [{port: web}]}],
  egress: [{to: [{namespaceSelector: {}}], ports: [{port: dns, protocol: UDP}]}, {ports: [{port: nobodys}]}, {to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: web}]}]}`,
		"egress":        `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 443}]}]}`,
		"selects-none":  `{podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress]}`,
		"peers-nobody":  `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}]}`,
		"egress-absent": `{podSelector: {}, policyTypes: [Egress]}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := town(t)
			w.policies = []*networkingv1.NetworkPolicy{policyOf(t, "shop", "p", spec)}
			rs, err := compile(w)
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, filepath.Join("testdata", name+".golden"), rs.String())
		})
	}
}

// Rules of several policies add up, and a policy of another namespace has no say.
func TestPoliciesAddUp(t *testing.T) {
	w := town(t)
	w.policies = []*networkingv1.NetworkPolicy{
		policyOf(t, "shop", "deny", `{podSelector: {}, policyTypes: [Ingress]}`),
		policyOf(t, "shop", "db", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`),
		policyOf(t, "lab", "deny", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}`),
	}
	rs, err := compile(w)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "add-up.golden"), rs.String())
	again, err := compile(w)
	if err != nil {
		t.Fatal(err)
	}
	if again.String() != rs.String() {
		t.Error("the same world made two rule sets")
	}
}

func TestWhatIsNotUnderstoodAllowsNothing(t *testing.T) {
	w := town(t)
	bad := policyOf(t, "shop", "bad", `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]}`)
	odd := policyOf(t, "shop", "odd", `{podSelector: {}, policyTypes: [Ingress]}`)
	odd.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
		PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}}}}
	w.policies = []*networkingv1.NetworkPolicy{bad, odd}
	rs, err := compile(w)
	if err == nil || !strings.Contains(err.Error(), "shop/bad") || !strings.Contains(err.Error(), "shop/odd") {
		t.Errorf("error %v does not name both policies", err)
	}
	for name, s := range rs.sets {
		if s.kind != verdicts && s.kind != pairs && len(s.elements) > 0 {
			t.Errorf("set %s has elements: %v", name, s.elements)
		}
	}
	if !strings.Contains(rs.String(), "10.42.0.2 : goto ingress-pods-") {
		t.Errorf("the pod is open:\n%s", rs)
	}
}

func TestChainNamesFitTheKernel(t *testing.T) {
	long := strings.Repeat("x", 253)
	p := &policy{NetworkPolicy: policyOf(t, strings.Repeat("n", 63), long, "{}")}
	q := &policy{NetworkPolicy: policyOf(t, strings.Repeat("n", 63), long[:252]+"y", "{}")}
	a, b := chainName(ingress, p), chainName(ingress, q)
	if len(a) > nameLimit || a == b {
		t.Errorf("names %s and %s", a, b)
	}
}

func TestSandboxesComeBeforeTheAPI(t *testing.T) {
	w := town(t)
	w.policies = []*networkingv1.NetworkPolicy{policyOf(t, "shop", "deny", `{podSelector: {}, policyTypes: [Ingress]}`)}
	w.sandboxes = map[sandboxOf]sandbox{
		{"shop", "new", "shop-new"}: {ips: addrs("10.42.0.7")},
		// The API still says that db-1 has the address that web-0 has got since.
		{"shop", "web-0", "shop-web-0"}: {ips: addrs("10.42.0.4")},
		// A namesake of an earlier life, and a container of somebody else's.
		{"shop", "db-0", "earlier"}: {ips: addrs("10.42.0.8")},
		{"other", "x", ""}:          {ips: addrs("10.42.0.6")},
	}
	rs, err := compile(w)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "sandboxes.golden"), rs.String())
}

func TestMirrorPodsAreKnownByTheirStaticPods(t *testing.T) {
	w := &world{node: "here", sandboxes: map[sandboxOf]sandbox{{"shop", "static-here", "hash"}: {ips: addrs("10.42.0.5")}}}
	p := kubePod("shop", "static-here", "here", nil)
	p.Annotations = map[string]string{"kubernetes.io/config.mirror": "hash"}
	w.pods = []*pod{trimmed(t, p)}
	if got := w.resolve()[w.pods[0]]; len(got) != 1 || got[0].String() != "10.42.0.5" {
		t.Errorf("it has the addresses %v", got)
	}
}
