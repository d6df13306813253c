package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// serveTLS starts a role of testserver that speaks TLS, behind a Service of its
// name on port 443, and returns the CA that clients must trust.
func (e *env) serveTLS(role string, args ...string) (ca []byte) {
	e.t.Helper()
	ca, cert, key := e.certificates(role + "." + e.ns + ".svc")
	_, err := e.client.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: role}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": cert, "tls.key": key}}, metav1.CreateOptions{})
	e.must(err)
	svc := service(role, corev1.ServiceTypeClusterIP, 443)
	svc.Spec.Ports[0].TargetPort.IntVal = 8443
	e.createService(svc)
	p := pod(role, server(role, args...))
	withVolume(p, "tls", "/tls", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: role}})
	if len(args) > 0 {
		withVolume(p, "front", "/front", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "front"}}})
	}
	e.startPod(p)
	return ca
}

// certificates makes a CA and a certificate for one name, in PEM.
func (e *env) certificates(name string) (ca, cert, key []byte) {
	e.t.Helper()
	return certificatesFor(e.t, name)
}

// certificatesFor makes a CA and a certificate for one name or address, in PEM.
func certificatesFor(t *testing.T, name string) (ca, cert, key []byte) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	caCert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: caCert.NotBefore, NotAfter: caCert.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	caDER, err := x509.CreateCertificate(rand.Reader, caCert, caCert, caKey.Public(), caKey)
	must(t, err)
	if ip := net.ParseIP(name); ip != nil {
		leaf.DNSNames, leaf.IPAddresses = nil, []net.IP{ip}
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, caCert, leafKey.Public(), caKey)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	must(t, err)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return block("CERTIFICATE", caDER), block("CERTIFICATE", leafDER), block("EC PRIVATE KEY", keyDER)
}

// webhook is the part that all webhook configurations of the tests share: it
// sees ConfigMaps of the test's namespace only.
func (e *env) webhook(path string, ca []byte) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name: "hook.knarr.test", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionv1.SideEffectClassNone), TimeoutSeconds: ptr.To[int32](5),
		FailurePolicy:     ptr.To(admissionv1.Fail),
		ClientConfig:      admissionv1.WebhookClientConfig{CABundle: ca, Service: &admissionv1.ServiceReference{Namespace: e.ns, Name: "webhook", Path: &path}},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": e.ns}},
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
	}
}

// tryConfigMap creates a ConfigMap with labels and returns what came of it.
func (e *env) tryConfigMap(name string, labels map[string]string) (*corev1.ConfigMap, error) {
	return e.client.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
}

func TestValidatingWebhook(t *testing.T) {
	e := inNamespace(t)
	ca := e.serveTLS("webhook")
	hooks := e.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	conf, err := hooks.Create(e.ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Webhooks: []admissionv1.ValidatingWebhook{e.webhook("/validate", ca)}}, metav1.CreateOptions{})
	e.must(err)
	defer func() { e.must(hooks.Delete(e.ctx, e.ns, metav1.DeleteOptions{})) }()
	n := 0
	try := func(labels map[string]string) error {
		n++
		_, err := e.tryConfigMap(fmt.Sprintf("try-%d", n), labels)
		return err
	}
	deny := map[string]string{"webhook.knarr.test/deny": "yes"}
	e.eventually("the webhook's refusal", func() error {
		if err := try(deny); err == nil || !strings.Contains(err.Error(), "is not allowed here") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	if err := try(nil); err != nil {
		t.Errorf("what the webhook allows is refused: %v", err)
	}
	// With nobody behind the webhook, failurePolicy decides.
	e.mustKubectl("delete", "pod", "webhook")
	e.eventually("failurePolicy Fail to refuse", func() error {
		if err := try(nil); err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	conf.Webhooks[0].FailurePolicy = ptr.To(admissionv1.Ignore)
	_, err = hooks.Update(e.ctx, conf, metav1.UpdateOptions{})
	e.must(err)
	e.eventually("failurePolicy Ignore to allow", func() error { return try(deny) })
}

func TestMutatingWebhook(t *testing.T) {
	e := inNamespace(t)
	v := e.webhook("/mutate", e.serveTLS("webhook"))
	hooks := e.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err := hooks.Create(e.ctx, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Webhooks: []admissionv1.MutatingWebhook{{
		Name: v.Name, AdmissionReviewVersions: v.AdmissionReviewVersions, SideEffects: v.SideEffects, FailurePolicy: v.FailurePolicy, TimeoutSeconds: v.TimeoutSeconds,
		ClientConfig: v.ClientConfig, NamespaceSelector: v.NamespaceSelector, Rules: v.Rules}}}, metav1.CreateOptions{})
	e.must(err)
	defer func() { e.must(hooks.Delete(e.ctx, e.ns, metav1.DeleteOptions{})) }()
	n := 0
	for _, labels := range []map[string]string{nil, {"own": "label"}} {
		e.eventually("the webhook's label", func() error {
			n++
			c, err := e.tryConfigMap(fmt.Sprintf("try-%d", n), labels)
			if err == nil && (c.Labels["webhook.knarr.test/seen"] != "true" || c.Labels["own"] != labels["own"]) {
				err = fmt.Errorf("its labels are %v", c.Labels)
			}
			return err
		})
	}
}

func TestValidatingAdmissionPolicy(t *testing.T) {
	e := inNamespace(t)
	e.apply(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: "object.metadata.name.startsWith('ok-')", message: "names begin with ok-"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec:
  policyName: %[1]s
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
`, e.ns))
	defer e.mustKubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", e.ns)
	n := 0
	e.eventually("the policy to refuse", func() error {
		n++
		if _, err := e.tryConfigMap(fmt.Sprintf("bad-%d", n), nil); err == nil || !strings.Contains(err.Error(), "names begin with ok-") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	if _, err := e.tryConfigMap("ok-1", nil); err != nil {
		t.Errorf("what the policy allows is refused: %v", err)
	}
}

// TestPolicyTypesAreChecked has a policy compare a number with a text.
func TestPolicyTypesAreChecked(t *testing.T) {
	e := inNamespace(t)
	e.apply(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %s}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  validations: [{expression: "object.spec.replicas > 'many'"}]
`, e.ns))
	defer e.mustKubectl("delete", "validatingadmissionpolicy", e.ns)
	e.eventually("the warning that the types differ", func() error {
		out, err := e.runKubectl("get", "validatingadmissionpolicy", e.ns, "-o", "jsonpath={.status.typeChecking.expressionWarnings[*].warning}")
		if err == nil && !strings.Contains(out, "no matching overload") {
			err = fmt.Errorf("the warnings are %q", out)
		}
		return err
	})
}

// TestOpenAPIDocuments asks for the documents as clients do: all of version 2 at once; of version 3 the list, and what it
// names. Built-in types, those that the process adds, custom resources and APIServices are in both.
func TestOpenAPIDocuments(t *testing.T) {
	e := inNamespace(t)
	all := e.mustKubectl("get", "--raw", "/openapi/v2")
	for _, want := range []string{`"io.k8s.api.apps.v1.Deployment"`, `"io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService"`,
		`"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"`, "/apis/knarr.io/v1/"} {
		if !strings.Contains(all, want) {
			t.Errorf("the document of version 2 has no %s", want)
		}
	}
	var list struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(e.mustKubectl("get", "--raw", "/openapi/v3")), &list); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"api/v1": "io.k8s.api.core.v1.Pod", "apis/apps/v1": "io.k8s.api.apps.v1.Deployment", "apis/metrics.k8s.io/v1beta1": "PodMetrics",
		"apis/apiextensions.k8s.io/v1": "CustomResourceDefinition", "apis/apiregistration.k8s.io/v1": "APIService", "apis/knarr.io/v1": "Addon",
	} {
		url := list.Paths[path].ServerRelativeURL
		if url == "" {
			t.Errorf("%s is not listed", path)
			continue
		}
		if document := e.mustKubectl("get", "--raw", url); !strings.Contains(document, want) {
			t.Errorf("GET %s has no %s: %.200s", url, want, document)
		}
	}
}

// TestReadinessNamesItsChecks: the hooks that knarr runs in upstream's place are under upstream's names.
func TestReadinessNamesItsChecks(t *testing.T) {
	e := inNamespace(t)
	checks := e.mustKubectl("get", "--raw", "/readyz?verbose")
	for _, name := range []string{"rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes"} {
		if !strings.Contains(checks, "[+]poststarthook/"+name+" ok") {
			t.Errorf("/readyz has no check %s:\n%s", name, checks)
		}
	}
}

// crd is a CustomResourceDefinition in a group of the test's own, with versions
// v1 ("size") and v2 ("width") that a webhook converts.
func (e *env) crd(ca []byte) string {
	version := func(name, field string, storage bool) string {
		return fmt.Sprintf(`
  - name: %s
    served: true
    storage: %v
    subresources: {status: {}, scale: {specReplicasPath: .spec.%[3]s, statusReplicasPath: .status.replicas}}
    schema: {openAPIV3Schema: {type: object, properties: {
      spec: {type: object, required: [%[3]s], properties: {%[3]s: {type: integer, minimum: 1}, colour: {type: string, default: grey}}},
      status: {type: object, properties: {replicas: {type: integer}}}}}}`, name, storage, field)
	}
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.%[1]s.knarr.test}
spec:
  group: %[1]s.knarr.test
  names: {plural: widgets, singular: widget, kind: Widget}
  scope: Namespaced
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {caBundle: %[2]s, service: {namespace: %[1]s, name: webhook, path: /convert}}
  versions:%[3]s%[4]s
`, e.ns, base64.StdEncoding.EncodeToString(ca), version("v1", "size", false), version("v2", "width", true))
}

func TestCustomResourceWithConversion(t *testing.T) {
	e := inNamespace(t)
	group := e.ns + ".knarr.test"
	e.apply(e.crd(e.serveTLS("webhook")))
	defer e.mustKubectl("delete", "crd", "widgets."+group)
	e.mustKubectl("wait", "--for=condition=Established", "crd/widgets."+group, "--timeout=1m")
	widget := func(size string) string {
		return "apiVersion: " + group + "/v1\nkind: Widget\nmetadata: {name: one}\nspec: {size: " + size + "}\n"
	}
	e.eventually("a custom resource", func() error {
		_, err := e.kubectlWith(strings.NewReader(widget("3")), "apply", "-f", "-")
		return err
	})
	read := func(version, path string) string {
		return e.mustKubectl("get", "widgets."+version+"."+group, "one", "-o", "jsonpath={"+path+"}")
	}
	for _, c := range []struct{ version, path, want string }{
		{"v1", ".spec.size", "3"}, {"v2", ".spec.width", "3"}, {"v2", ".spec.size", ""}, {"v2", ".spec.colour", "grey"},
	} {
		if got := read(c.version, c.path); got != c.want {
			t.Errorf("%s in %s is %q, want %q", c.path, c.version, got, c.want)
		}
	}
	e.mustKubectl("scale", "widgets."+group, "one", "--replicas=5")
	if got := read("v1", ".spec.size"); got != "5" {
		t.Errorf("after scaling to 5 the size is %s", got)
	}
	for _, bad := range []string{"0", "big"} {
		if _, err := e.kubectlWith(strings.NewReader(widget(bad)), "apply", "-f", "-"); err == nil {
			t.Errorf("size %s was accepted", bad)
		}
	}
}

func TestAggregatedAPI(t *testing.T) {
	e := alone(t)
	// The server lets in who shows a certificate of the CA that the
	// kube-apiserver publishes for this.
	published, err := e.client.CoreV1().ConfigMaps("kube-system").Get(e.ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	e.must(err)
	_, err = e.client.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "front"},
		Data: map[string]string{"ca.crt": published.Data["requestheader-client-ca-file"]}}, metav1.CreateOptions{})
	e.must(err)
	ca := e.serveTLS("apiserver", "--client-ca=/front/ca.crt")
	e.apply(fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.demo.knarr.test}
spec: {group: demo.knarr.test, version: v1, groupPriorityMinimum: 1000, versionPriority: 10, caBundle: %s, service: {namespace: %s, name: apiserver}}
`, base64.StdEncoding.EncodeToString(ca), e.ns))
	defer e.mustKubectl("delete", "apiservice", "v1.demo.knarr.test")
	e.mustKubectl("wait", "--for=condition=Available", "apiservice/v1.demo.knarr.test", "--timeout=2m")
	var greeting struct{ User string }
	e.eventually("an answer of the aggregated API", func() error {
		b, err := e.client.RESTClient().Get().AbsPath("/apis/demo.knarr.test/v1/greetings/hello").Do(e.ctx).Raw()
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &greeting)
	})
	who := e.mustKubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if greeting.User == "" || greeting.User != who {
		t.Errorf("the aggregated API was told that %q asks, it was %q", greeting.User, who)
	}
	e.eventually("the group in discovery", func() error {
		out, err := e.runKubectl("api-resources", "--api-group=demo.knarr.test", "-o", "name")
		if err == nil && !strings.Contains(out, "greetings.demo.knarr.test") {
			err = fmt.Errorf("discovery has %q", out)
		}
		return err
	})
	e.mustKubectl("delete", "pod", "apiserver")
	e.eventually("the API to say that it is unavailable", func() error {
		err := e.client.RESTClient().Get().AbsPath("/apis/demo.knarr.test/v1/greetings/hello").Do(e.ctx).Error()
		if !apierrors.IsServiceUnavailable(err) {
			return errors.Join(errors.New("not so"), err)
		}
		return nil
	})
}
